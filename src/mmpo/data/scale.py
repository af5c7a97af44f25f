"""Grades on another scale."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev
from typing import ClassVar, TypeAlias

from mmpo.data.pairs import answers, graded
from mmpo.errors import UserError, nearest
from mmpo.types import Datum, Judgement

Numbers: TypeAlias = "dict[str, array[float]]"
"""The "grades" and the stated "gaps" of data, and the grades by each attribute, as "attribute NAME"; 8 bytes each."""


def rescale(data: Iterable[Datum], how: str, like: Iterable[Datum] | None = None) -> list[Datum]:
    """Grades on another scale; stated gaps and the grades of annotators follow. Each attribute has a scale of its own.

    "log1p": sign(q) log(1 + |q|), for heavy-tailed counts such as upvotes; "zscore": mean 0 and standard deviation 1
    over the data set; "minmax": 0 to 1 over the data set; "logit": log(q / (1 - q)), for grades that are probabilities
    (kept 1e-6 away from 0 and 1), and for these alone. Where only gaps are stated, zscore divides them by their
    root mean square and minmax by their largest size. The scale is that of ``like``, so that held-out data are measured
    as the training data are; by default that of the data themselves.

    Raises:
        UserError: another name, a logit of what is no probability, or no grades to measure a scale by.
    """
    data = list(data)
    scale = Scale.of(how, numbers_of(data if like is None else like) if how in Scale.FITTED else {})
    return [rescaled(d, scale) for d in data]


@dataclass(frozen=True)
class Scale:
    """Another scale for grades and for the gaps between them; see ``rescale``. ``attributes`` holds the centre and the
    unit of each."""

    FITTED: ClassVar = ("zscore", "minmax", "logit")
    """Those that look at the numbers of all data; logit does so to refuse what is no probability."""

    how: str
    centre: float = 0.0
    unit: float = 1.0
    attributes: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, how: str, numbers: Mapping[str, Sequence[float]]) -> Scale:
        """The scale for data with these ``Numbers``. Raises UserError as ``rescale`` does."""
        if how not in (known := ("log1p", *cls.FITTED)):
            raise UserError(f"rescale: {how!r} is unknown. {nearest(how, known)}")
        if how in cls.FITTED and not any(numbers.values()):
            raise UserError("rescale changes grades, and the data have none; leave it out")
        gaps, lines = numbers.get("gaps", ()), {name: line for name, line in numbers.items() if line and name != "gaps"}
        for name, line in lines.items():
            if how == "logit" and (min(line) < 0 or max(line) > 1):
                raise UserError(_no_probability(name))
        if how == "logit" and gaps:
            raise UserError(_no_probability("gaps"))
        fitted = {name.removeprefix(_OF): _fitted(how, line) for name, line in lines.items() if name.startswith(_OF)}
        return cls(how, *_fitted(how, numbers.get("grades", ()), gaps), fitted)

    def of_attribute(self, name: str) -> Scale:
        """The scale of the grades by one attribute; as it is where the attribute was not among the numbers."""
        return Scale(self.how, *self.attributes.get(name, (0.0, 1.0)))

    def grade(self, q: float) -> float:
        return self.gap(q - self.centre)

    def gap(self, gap: float) -> float:
        if self.how == "log1p":
            return math.copysign(math.log1p(abs(gap)), gap)
        if self.how == "logit":
            p = min(max(gap, 1e-6), 1 - 1e-6)
            return math.log(p / (1 - p))
        return gap / self.unit


_OF = "attribute "


def _no_probability(what: str) -> str:
    told = "grades" if what in ("grades", "gaps") else f"the {what}"
    return f"rescale: logit is for grades that are probabilities between 0 and 1, not for {told}; use log1p or zscore"


def _fitted(how: str, grades: Sequence[float], gaps: Sequence[float] = ()) -> tuple[float, float]:
    """Centre and unit; where all grades are equal the unit is left alone."""
    centre, unit = 0.0, 1.0
    if how == "zscore":
        centre = fmean(grades) if grades else 0.0
        unit = pstdev(grades) if grades else math.sqrt(fmean([g * g for g in gaps] or [1.0]))
    if how == "minmax":
        centre = min(grades) if grades else 0.0
        unit = max(grades) - min(grades) if grades else max((abs(g) for g in gaps), default=1.0)
    return centre, unit or 1.0


def numbers_of(data: Iterable[Datum]) -> Numbers:
    """The numbers of which a scale is made."""
    found: Numbers = {"grades": array("d"), "gaps": array("d")}
    for d in data:
        if d.grades is not None:
            found["grades"].extend(g for i in graded(d) if (g := d.grades[i]) is not None)
        found["gaps"].extend(j.gap for j in d.judgements if j.gap is not None)
        for name, line in d.attributes.items():
            found.setdefault(_OF + name, array("d")).extend(g for i in answers(d) if (g := line[i]) is not None)
    return found


def rescaled(d: Datum, scale: Scale) -> Datum:
    """The datum on another scale."""
    # The grade of a response with a role, such as a degree, is no quality.
    among = set(answers(d))

    def line(grades: Sequence[float | None], scale: Scale = scale) -> tuple[float | None, ...]:
        return tuple(scale.grade(g) if g is not None and i in among else g for i, g in enumerate(grades))

    def said(j: Judgement) -> Judgement:
        return j if j.gap is None else replace(j, gap=scale.gap(j.gap))

    return replace(
        d,
        grades=None if d.grades is None else line(d.grades),
        judgements=tuple(said(j) for j in d.judgements),
        annotator_grades={a: line(grades) for a, grades in d.annotator_grades.items()},
        attributes={name: line(grades, scale.of_attribute(name)) for name, grades in d.attributes.items()},
    )
