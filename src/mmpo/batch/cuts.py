"""What tokenising cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from mmpo.data.ledger import Dropped
from mmpo.errors import AtMost, OnBadRow
from mmpo.types import Datum

if TYPE_CHECKING:
    from mmpo.batch.tokenize import Encoded

_COUNTED = (
    "prompts",
    "responses",
    "prompts_cut",
    "prompt_tokens_cut",
    "responses_cut",
    "response_tokens_cut",
    "boundaries_moved",
)


@dataclass
class Cuts:
    """What tokenising cost, counted over data (prompts) and responses.

    ``first_moved`` is the id of the first datum whose boundary moved; ``dropped`` has, for each reason, a count and the
    first ids.
    """

    max_length: int
    max_prompt_length: int | None
    prompts: int = 0
    responses: int = 0
    prompts_cut: int = 0
    prompt_tokens_cut: int = 0
    responses_cut: int = 0
    response_tokens_cut: int = 0
    boundaries_moved: int = 0
    first_moved: str | None = None
    dropped: dict[str, Dropped] = field(default_factory=dict)

    def add(self, encoded: Encoded) -> None:
        self.prompts += 1
        self.responses += len(encoded.responses)
        self.prompts_cut += encoded.prompt_cut > 0
        self.prompt_tokens_cut += encoded.prompt_cut
        self.responses_cut += sum(cut > 0 for cut in encoded.response_cut)
        self.response_tokens_cut += sum(encoded.response_cut)
        self.boundaries_moved += encoded.boundary_moved
        if encoded.boundary_moved and self.first_moved is None:
            self.first_moved = encoded.id

    def drop(self, datum: Datum, reason: str) -> None:
        self.dropped.setdefault(reason, Dropped()).add(datum.id)

    def __iadd__(self, more: Cuts) -> Self:
        """What came after, under the same limits."""
        for name in _COUNTED:
            setattr(self, name, getattr(self, name) + getattr(more, name))
        self.first_moved = more.first_moved if self.first_moved is None else self.first_moved
        for reason, told in more.dropped.items():
            self.dropped.setdefault(reason, Dropped()).merge(told)
        return self

    def as_dict(self) -> dict[str, Any]:
        dropped = {reason: {"count": told.count, "ids": told.rows} for reason, told in self.dropped.items()}
        return {**vars(self), "dropped": dropped, "summary": self.summary()}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Cuts:
        """What ``as_dict`` told."""
        dropped = {reason: Dropped(one["count"], one["ids"]) for reason, one in told["dropped"].items()}
        return cls(**{name: value for name, value in told.items() if name != "summary"} | {"dropped": dropped})

    def check(self, on_bad_row: OnBadRow) -> None:
        """Raise UserError where more data were dropped than a rule allows."""
        if isinstance(on_bad_row, AtMost) and self.dropped:
            bad = sum(told.count for told in self.dropped.values())
            why = "; ".join(f"{reason} ({told.count}: {', '.join(told.rows)})" for reason, told in self.dropped.items())
            on_bad_row.check(bad, bad + self.prompts, why, "prompts")

    def summary(self) -> str:
        """One line for people."""
        dropped = "".join(f", {told.count} prompts dropped: {reason}" for reason, told in self.dropped.items())
        return (
            f"max_length {self.max_length}: {self.prompts_cut} of {self.prompts} prompts lost their beginning, "
            f"{self.responses_cut} of {self.responses} responses their end{dropped}"
        )
