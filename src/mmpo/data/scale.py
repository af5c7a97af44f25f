"""Grades on another scale."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import ClassVar

from mmpo.data.pairs import answers, graded
from mmpo.errors import UserError, nearest
from mmpo.types import Datum, Judgement


def rescale(data: Iterable[Datum], how: str, like: Iterable[Datum] | None = None) -> list[Datum]:
    """Grades on another scale; stated gaps, the grades of annotators and those of attributes follow.

    "log1p": sign(q) log(1 + |q|), for heavy-tailed counts such as upvotes; "zscore": mean 0 and standard deviation 1
    over the data set; "minmax": 0 to 1 over the data set; "logit": log(q / (1 - q)), for grades that are probabilities
    (kept 1e-6 away from 0 and 1), and for these alone. Where only gaps are stated, zscore divides them by their
    root mean square and minmax by their largest size. The scale is that of ``like``, so that held-out data are measured
    as the training data are; by default that of the data themselves.

    Raises:
        UserError: another name, a logit of what is no probability, also in an attribute, or no grades to measure a
            scale by.
    """
    data = list(data)
    scale = Scale.of(how, *(numbers_of(data if like is None else like) if how in Scale.FITTED else ((), ())))
    return [rescaled(d, scale) for d in data]


@dataclass(frozen=True)
class Scale:
    """Another scale for grades and for the gaps between them; see ``rescale``."""

    FITTED: ClassVar = ("zscore", "minmax", "logit")
    """Those that look at the numbers of all data; logit does so to refuse what is no probability."""

    how: str
    centre: float = 0.0
    unit: float = 1.0

    @classmethod
    def of(cls, how: str, grades: Sequence[float], gaps: Sequence[float]) -> Scale:
        """The scale for data with these grades and stated gaps. Raises UserError as ``rescale`` does."""
        if how not in (known := ("log1p", *cls.FITTED)):
            raise UserError(f"rescale: {how!r} is unknown. {nearest(how, known)}")
        if how in cls.FITTED and not grades and not gaps:
            raise UserError("rescale changes grades, and the data have none; leave it out")
        if how == "logit" and (gaps or not grades or min(grades) < 0 or max(grades) > 1):
            raise UserError("rescale: logit is for grades that are probabilities between 0 and 1; use log1p or zscore")
        centre, unit = 0.0, 1.0
        if how == "zscore":
            centre = fmean(grades) if grades else 0.0
            unit = pstdev(grades) if grades else math.sqrt(fmean([g * g for g in gaps] or [1.0]))
        if how == "minmax":
            centre = min(grades) if grades else 0.0
            unit = max(grades) - min(grades) if grades else max((abs(g) for g in gaps), default=1.0)
        return cls(how, centre, unit or 1.0)  # where all grades are equal the unit is left alone

    def grade(self, q: float) -> float:
        return self.gap(q - self.centre)

    def gap(self, gap: float) -> float:
        if self.how == "log1p":
            return math.copysign(math.log1p(abs(gap)), gap)
        if self.how == "logit":
            p = min(max(gap, 1e-6), 1 - 1e-6)
            return math.log(p / (1 - p))
        return gap / self.unit


def numbers_of(data: Iterable[Datum]) -> tuple[array[float], array[float]]:
    """The grades and the stated gaps of data, of which a scale is made; eight bytes a number."""
    grades, gaps = array("d"), array("d")
    for d in data:
        if d.grades is not None:
            grades.extend(g for i in graded(d) if (g := d.grades[i]) is not None)
        gaps.extend(j.gap for j in d.judgements if j.gap is not None)
    return grades, gaps


def rescaled(d: Datum, scale: Scale) -> Datum:
    """The datum on another scale."""
    # The grade of a response with a role, such as a degree, is no quality.
    among = set(answers(d))

    def line(grades: Sequence[float | None]) -> tuple[float | None, ...]:
        return tuple(scale.grade(g) if g is not None and i in among else g for i, g in enumerate(grades))

    def said(j: Judgement) -> Judgement:
        return j if j.gap is None else replace(j, gap=scale.gap(j.gap))

    return replace(
        d,
        grades=None if d.grades is None else line(d.grades),
        judgements=tuple(said(j) for j in d.judgements),
        annotator_grades={a: line(grades) for a, grades in d.annotator_grades.items()},
        attributes={a: line(_probable(d, a, grades, scale)) for a, grades in d.attributes.items()},
    )


def _probable(d: Datum, attribute: str, grades: Sequence[float | None], scale: Scale) -> Sequence[float | None]:
    """The grades of an attribute, which no scale was measured by, if they can be put on it."""
    if scale.how == "logit" and any(g is not None and not 0 <= g <= 1 for g in grades):
        raise UserError(
            f"{d.source or d.id}: rescale: logit is for probabilities between 0 and 1, and {attribute} is none; leave "
            "the attribute out, or use log1p or zscore"
        )
    return grades
