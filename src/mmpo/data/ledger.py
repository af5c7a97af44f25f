"""What became of every row: nothing is dropped, folded or ignored without a count."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from mmpo.errors import AtMost, OnBadRow, UserError

LISTED = 20
"""How many of the rows dropped for one reason are listed by name."""

SCORED = frozenset({"model_scores", "model_margins", "model_p", "model_scores_by", "model_scores_of", "model_weights"})
"""The columns that ``mmpo score`` adds: a model's word, not people's."""

_FEEDBACK = re.compile(
    r"score|rating|vote|margin|^rank|_rank|weight|^p_|_p_|prefer|label|grade|reward|winner|helpful|strength"
    r"|^annotator(_id)?$|rationale|rollout|variant|marks$|contrast|attributes$",
    re.I,
)


def in_words(step: str, counts: Mapping[str, int]) -> list[str]:
    """The counts of a step as one line, without those that are zero; no line where all are."""
    told = [f"{name} {count}" for name, count in counts.items() if count]
    return [f"{step}: {', '.join(told)}"] if told else []


@dataclass
class Dropped:
    """Rows dropped for one reason: how many, the first of them by name, and what is to be mended in the very first."""

    count: int = 0
    rows: list[str] = field(default_factory=list)
    mend: str = ""

    def add(self, row: str) -> None:
        self.count += 1
        if len(self.rows) < LISTED:
            self.rows.append(row)

    def merge(self, other: Dropped) -> None:
        self.count += other.count
        self.rows = (self.rows + other.rows)[:LISTED]
        self.mend = self.mend or other.mend


@dataclass
class Ledger:
    """The account of a load. Always ``rows_in == rows_used + sum of dropped``.

    Attributes:
        name: the source, or "all" for the sum of several.
        rows_in: rows read.
        rows_used: rows that are in the data.
        data: prompts with their responses made from them (rows of one response each are gathered by prompt).
        repeated: data used once more because the source has a weight above 1.
        dropped: reason -> rows.
        shapes: row shape -> number of rows.
        provides: kind of feedback -> number of rows: "grades", "ranks", "votes", "offset", "annotators", "attributes",
            "prompts" (own prompts of responses), "marks", "contrasts", and the roles of responses, such as "rationale".
        columns_used: the columns that were read.
        columns_unused: the others.
        columns_left: of those, the ones that are left on purpose, by the user or by the schema -> number of rows.
        notes: what else the reader should know, in words.
        parts: the ledgers of the single sources.
    """

    name: str
    rows_in: int = 0
    rows_used: int = 0
    data: int = 0
    repeated: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)
    shapes: Counter[str] = field(default_factory=Counter)
    provides: Counter[str] = field(default_factory=Counter)
    columns_used: set[str] = field(default_factory=set)
    columns_unused: set[str] = field(default_factory=set)
    columns_left: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    parts: tuple[Ledger, ...] = ()

    def drop(self, reason: str, row: str, mend: str = "") -> None:
        self.dropped.setdefault(reason, Dropped(mend=mend)).add(row)

    @property
    def rows_dropped(self) -> int:
        return sum(d.count for d in self.dropped.values())

    @property
    def rows_bad(self) -> int:
        """Rows dropped for a fault, and not by a rule that the user set."""
        return sum(d.count for d in self.dropped.values() if d.mend)

    @property
    def unused_feedback(self) -> list[str]:
        """Columns that were not used although their names sound like feedback, and that nobody leaves on purpose."""
        known = SCORED | self.columns_left.keys()
        return sorted(c for c in self.columns_unused if _FEEDBACK.search(c) and c not in known)

    def check(self, on_bad_row: OnBadRow) -> None:
        """Raise UserError where more rows are bad than the rule allows."""
        if isinstance(on_bad_row, AtMost):
            told = "; ".join(
                f"{d.count} {reason} ({', '.join(d.rows[:3])}{', ...' if d.count > 3 else ''}: {d.mend})"
                for reason, d in self.dropped.items()
                if d.mend
            )
            on_bad_row.check(self.rows_bad, self.rows_in, told)

    def check_feedback(self) -> None:
        """Raise UserError where feedback is not used, and nobody has said that this is meant."""
        for part in self.parts or (self,):
            if part.unused_feedback:
                raise UserError(
                    f"{part.name}: not used, though it looks like feedback: {', '.join(part.unused_feedback)}; where "
                    f"that is meant, say so in data: {{path: ..., ignore: {json.dumps(part.unused_feedback)}}}"
                )

    def add(self, other: Ledger) -> None:
        """Count the rows of another ledger too."""
        self.rows_in += other.rows_in
        self.rows_used += other.rows_used
        self.data += other.data
        self.repeated += other.repeated
        self.shapes += other.shapes
        self.provides += other.provides
        self.columns_used |= other.columns_used
        self.columns_unused |= other.columns_unused
        self.columns_left += other.columns_left
        self.notes += other.notes
        for reason, dropped in other.dropped.items():
            self.dropped.setdefault(reason, Dropped()).merge(dropped)

    @classmethod
    def total(cls, parts: Iterable[Ledger]) -> Ledger:
        """The sum of several ledgers; a single one is returned as it is."""
        parts = tuple(parts)
        if len(parts) == 1:
            return parts[0]
        out = cls("all", parts=parts)
        for part in parts:
            out.add(replace(part, notes=[f"{part.name}: {note}" for note in part.notes]))
        return out

    def summary(self) -> list[str]:
        """The account in words: one line for the rows, then the feedback that nobody reads and the notes."""
        reasons = "; ".join(
            f"{d.count} {reason} ({', '.join(d.rows[:3])}{', ...' if d.count > 3 else ''})"
            for reason, d in self.dropped.items()
        )
        lines = [f"rows: {self.rows_in} in, {self.rows_used} used, {self.rows_dropped} dropped"]
        if reasons:
            lines[0] += f" - {reasons}"
        if self.unused_feedback:
            lines.append(f"not used, though it looks like feedback: {', '.join(self.unused_feedback)}")
        return lines + list(self.notes)

    def as_dict(self) -> dict[str, Any]:
        """The account as plain JSON."""
        return {
            "name": self.name,
            "rows_in": self.rows_in,
            "rows_used": self.rows_used,
            "rows_dropped": self.rows_dropped,
            "data": self.data,
            "repeated": self.repeated,
            "dropped": {reason: asdict(d) for reason, d in self.dropped.items()},
            "shapes": dict(self.shapes),
            "provides": dict(self.provides),
            "columns_used": sorted(self.columns_used),
            "columns_unused": sorted(self.columns_unused),
            "columns_left": dict(sorted(self.columns_left.items())),
            "unused_feedback": self.unused_feedback,
            "notes": list(self.notes),
            "parts": [part.as_dict() for part in self.parts],
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Ledger:
        """The ledger of which ``as_dict`` told."""
        known = {f.name: told[f.name] for f in fields(cls)}
        known |= {name: Counter(told[name]) for name in ("shapes", "provides", "columns_left")}
        known |= {name: set(told[name]) for name in ("columns_used", "columns_unused")}
        known["dropped"] = {reason: Dropped(**one) for reason, one in told["dropped"].items()}
        return cls(**known | {"parts": tuple(map(cls.from_dict, told["parts"]))})
