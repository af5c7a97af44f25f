"""Where data comes from: one file, folder or hub id, and how to read it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from mmpo.errors import UserError, nearest

MARGIN_MEANINGS = ("gap", "offset", "ignore")
MARKS = ("tags",)
ALL = "all"


@dataclass(frozen=True)
class Source:
    """One source of preference data.

    Attributes:
        path: a .jsonl, .jsonl.gz, .json, .csv or .parquet file, a folder written by ``Dataset.save_to_disk``, or a
            hub id.
        split: of a file, only the rows whose field ``split`` says so; of a folder or hub id, the split to load.
        weight: how often the data is used in an epoch: 0.5 draws half of it with the seed, 2 uses it twice.
        margin: what a column ``margin`` means. "gap": how much better the first response is, on the scale of the
            source; "offset": the additive margin of Llama 2's reward loss, as TRL and OpenRLHF use it; "ignore".
        grade: which of several grades to use: an attribute such as "helpfulness", or for UltraFeedback
            "overall_score" or "fine-grained_score"; or a weight for each of several attributes, as
            {helpfulness: 0.65, verbosity: -0.4}, whose weighted sum is the grade. A response that lacks one of them
            has no grade.
        attributes: what else the responses were graded on and is to be read: "all", or a list of names.
        marks: "tags" where the phrases that carry the difference stand between <MASK> and </MASK> in the responses;
            the tags are taken out.
        ignore: columns that look like feedback and are left on purpose; ``mmpo train`` asks for each by name.
        limit: stop after this many usable rows.
        feedback: "required", or "optional" for rows of a prompt and responses that are only to be scored.
        subset: the data set that rows belong to which name none themselves (a column ``subset``).
    """

    path: str
    split: str | None = None
    weight: float = 1.0
    margin: str | None = None
    grade: str | Mapping[str, float] | None = None
    limit: int | None = None
    feedback: str = "required"
    marks: str | None = None
    ignore: tuple[str, ...] = ()
    subset: str | None = None
    attributes: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, kind, expected in (
            ("path", str, "text"),
            ("split", str | None, "text"),
            ("subset", str | None, "text"),
            ("weight", int | float, "a number"),
            ("grade", str | Mapping | None, "a name, or a weight for each of several"),
            ("limit", int | None, "a whole number"),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise UserError(f"data: {name} is {value!r}; give {expected}")
        if not isinstance(self.ignore, list | tuple) or not all(isinstance(name, str) for name in self.ignore):
            raise UserError(f"{self.path}: ignore is {self.ignore!r}; give a list of columns")
        object.__setattr__(self, "ignore", tuple(self.ignore))
        object.__setattr__(self, "attributes", self._attributes())
        self._check_weights()
        if "\0" in self.path:
            raise UserError(f"{self.path!r} holds a NUL character, and no path does; take it out")
        if not 0 < self.weight < float("inf"):
            raise UserError(f"{self.path}: weight is {self.weight:g}; give a number above 0")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"{self.path}: limit is {self.limit}; give at least 1, or leave it out")
        if self.feedback not in ("required", "optional"):
            raise UserError(f"{self.path}: feedback is {self.feedback!r}; give required or optional")
        if self.margin is not None and self.margin not in MARGIN_MEANINGS:
            raise UserError(f"{self.path}: margin is {self.margin!r}. {nearest(str(self.margin), MARGIN_MEANINGS)}")
        if self.marks is not None and self.marks not in MARKS:
            raise UserError(f"{self.path}: marks is {self.marks!r}. {nearest(str(self.marks), MARKS)}")

    def _attributes(self) -> str | tuple[str, ...]:
        given = () if self.attributes is None else self.attributes
        if given == ALL or (isinstance(given, list | tuple) and all(isinstance(name, str) for name in given)):
            return ALL if given == ALL else tuple(dict.fromkeys(given))
        raise UserError(f"{self.path}: attributes is {given!r}; give all, or a list of names")

    def _check_weights(self) -> None:
        if not isinstance(self.grade, Mapping):
            return
        if not self.grade:
            raise UserError(f"{self.path}: grade names no attribute; give each its weight, as {{helpfulness: 0.65}}")
        for name, weight in self.grade.items():
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not isinstance(name, str) or not number or not math.isfinite(weight):
                raise UserError(f"{self.path}: grade gives {name!r} the weight {weight!r}; give a finite number")
        if not any(self.grade.values()):
            raise UserError(f"{self.path}: grade gives all attributes the weight 0; give one of them another")

    @property
    def weights(self) -> dict[str, float] | None:
        """The attributes whose weighted sum is the grade; None where the source does not say."""
        if self.grade is None:
            return None
        return {self.grade: 1.0} if isinstance(self.grade, str) else dict(self.grade)

    @property
    def left(self) -> frozenset[str]:
        """The columns that the user leaves on purpose."""
        return frozenset({*self.ignore, *(["margin"] if self.margin == "ignore" else [])})

    def check_ignored(self, used: Collection[str], unused: Collection[str]) -> None:
        """Raise UserError where ``ignore`` names a column that no row has, or one that is read."""
        for name in self.ignore:
            if name in used:
                raise UserError(f"{self.path}: ignore names {name!r}, which is read; take it out of ignore")
            if name not in unused:
                known = nearest(name, unused) if unused else "No column is left unread."
                raise UserError(f"{self.path}: ignore names {name!r}, which no row has. {known}")

    @classmethod
    def parse(cls, value: Source | str | Mapping[str, Any]) -> Source:
        """A path, or a mapping of this class's fields, as a source. Raises UserError for an unknown key."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(value)
        if not isinstance(value, Mapping):
            raise UserError(f"data: {value!r} is no source; give a path, or keys such as path and split")
        known = [f.name for f in fields(cls)]
        for key in value:
            if key not in known:
                raise UserError(f"data: unknown key {key!r}. {nearest(str(key), known)}")
        if "path" not in value:
            raise UserError("data: a source needs a path")
        return cls(**value)


def by_source(sources: Sequence[Source]) -> list[Source]:
    """The sources of a run that tells data sets apart: where there are several, each lends its rows its path as the
    name of their subset, unless it or they have one."""
    return [replace(one, subset=one.subset or one.path) for one in sources] if len(sources) > 1 else list(sources)
