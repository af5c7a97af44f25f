"""What was said about many examples, counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from mmpo.batch.example import Example
from mmpo.batch.statements import stack
from mmpo.types import ROLES, Evidence


@dataclass
class Stated:
    """What was said, counted over comparisons and responses.

    Attributes:
        counts: "comparisons", those "with votes", "bare labels"; responses with "marks"; data with "prompts" of their
            responses' own; "contrasts"; "voice_grades"; and responses of each role.
        voices: the numbers of the voices that said something.
        degree: the largest degree of a variant; -1 where none has one.
    """

    counts: Counter[str] = field(default_factory=Counter)
    voices: set[int] = field(default_factory=set)
    degree: float = -1.0

    def add(self, examples: Iterable[Example]) -> None:
        alike: dict[int, list[Evidence]] = defaultdict(list)
        for example in examples:
            alike[example.evidence.mask.shape[1]].append(example.evidence)
            self.counts["marks"] += sum(map(bool, example.encoded.marks))
            self.counts["prompts"] += bool(example.encoded.openings)
        for same in alike.values():
            self._say(stack(same))

    def _say(self, said: Evidence) -> None:
        self.counts.update(
            {
                "comparisons": _pairs(said.compared),
                "with votes": _pairs(~said.vote_share.isnan() & said.compared),
                "bare labels": _pairs(said.labels),
                "contrasts": 0 if said.contrast_weight is None else int((said.contrast_weight != 0).sum()),
                **{role: int(mask.sum()) for role, mask in said.roles.items()},
            }
        )
        if said.voices is not None:
            self.counts["voice_grades"] += int((~said.voices.quality.isnan()).sum())
            self.voices |= {*said.voices.who.unique().tolist()} - {-1, 0}
        for role in ROLES:
            if role.startswith("variant"):
                degrees = said.quality[said.role(role)].nan_to_num(nan=-1.0)
                self.degree = max(self.degree, float(degrees.max()) if len(degrees) else -1.0)

    def __iadd__(self, more: Stated) -> Self:
        self.counts.update(more.counts)
        self.voices |= more.voices
        self.degree = max(self.degree, more.degree)
        return self

    def as_dict(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "voices": sorted(self.voices), "degree": self.degree}

    @classmethod
    def of(cls, told: dict[str, Any]) -> Stated:
        return cls(Counter(told["counts"]), set(told["voices"]), told["degree"])


def _pairs(entries: torch.Tensor) -> int:
    return int(entries.sum()) // 2
