"""How strongly an ensemble of reward models agrees with each label, and labels changed by it: data -> data.

Secrets of RLHF II, arXiv 2401.06080. ``Datum.annotator_grades`` holds what each model gave, the judgements hold labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

from mmpo.errors import UserError
from mmpo.types import Datum, Judgement

Place = tuple[int, int]
"""Where a judgement stands: number of the datum, number of the judgement in it."""


@dataclass(frozen=True, slots=True)
class Strength:
    """The margin of a label, winner less loser, over the models of an ensemble: mean and population deviation."""

    mean: float
    std: float


def labels(data: Sequence[Datum]) -> dict[Place, Judgement]:
    """Every judgement that names a winner."""
    return {
        (n, at): said
        for n, datum in enumerate(data)
        for at, said in enumerate(datum.judgements)
        if said.p is not None and said.p != 0.5
    }


def relabelled(data: Sequence[Datum], changed: Mapping[Place, Judgement]) -> list[Datum]:
    """The data with other judgements in some places."""
    return [
        replace(datum, judgements=tuple(changed.get((n, at), said) for at, said in enumerate(datum.judgements)))
        for n, datum in enumerate(data)
    ]


def strengths(data: Sequence[Datum]) -> dict[Place, Strength]:
    """The strength of every label whose two responses were graded by some model."""
    found = {}
    for (n, at), said in labels(data).items():
        pairs = [(line[said.first], line[said.second]) for line in data[n].annotator_grades.values()]
        lead = 1 if said.p is not None and said.p > 0.5 else -1
        margins = [lead * (a - b) for a, b in pairs if a is not None and b is not None]
        if margins:
            found[n, at] = Strength(fmean(margins), pstdev(margins))
    return found


def flip_weakest(data: Iterable[Datum], high: float = 0.2, low: float = 0.0) -> tuple[list[Datum], dict[str, int]]:
    """Labels turned round whose mean strength is among the lowest ``high`` share, above the lowest ``low`` share.

    Returns the data and the counts "labels flipped" and "labels without scores", which stay as they are.
    """
    return _changed(data, low, high, "labels flipped", lambda j: replace(j, first=j.second, second=j.first))


def soften_weak(
    data: Iterable[Datum], eps: float = 0.1, high: float = 0.4, low: float = 0.2
) -> tuple[list[Datum], dict[str, int]]:
    """Labels smoothed by ``eps`` in a stratum of strength: p <- (1 - eps) p + eps (1 - p).

    Returns the data and the counts "labels softened" and "labels without scores", which stay as they are. Raises
    UserError where eps is no share.
    """
    if not 0 <= eps <= 1:
        raise UserError(f"eps is {eps:g}; give a share from 0 to 1")

    def softer(j: Judgement) -> Judgement:
        return j if j.p is None else replace(j, p=(1 - eps) * j.p + eps * (1 - j.p))

    return _changed(data, low, high, "labels softened", softer)


def by_strength(
    data: Iterable[Datum], flip: float = 0.2, soften: float = 0.0, eps: float = 0.1
) -> tuple[list[Datum], dict[str, int]]:
    """The weakest ``flip`` share of the labels turned round, and the next ``soften`` share smoothed by ``eps``.

    One ranking decides both: a label that was flipped is not weak any more. Returns the data and the counts "data in"
    and those of ``flip_weakest`` and ``soften_weak``.
    """
    data = list(data)
    softened, first = soften_weak(data, eps, flip + soften, flip)
    flipped, second = flip_weakest(softened, flip)
    return flipped, {"data in": len(data), **first, **second}


def _changed(
    data: Iterable[Datum], low: float, high: float, what: str, change: Callable[[Judgement], Judgement]
) -> tuple[list[Datum], dict[str, int]]:
    if not 0 <= low <= high <= 1:
        raise UserError(f"the stratum from {low:g} to {high:g} is none; give shares with 0 <= low <= high <= 1")
    data = list(data)
    stated, measured = labels(data), strengths(data)
    if stated and not measured:
        raise UserError("no label has scores of an ensemble; give annotator_scores, one line for each reward model")
    weakest = sorted(measured, key=lambda place: measured[place].mean)
    stratum = weakest[round(low * len(weakest)) : round(high * len(weakest))]
    counts = {what: len(stratum), "labels without scores": len(stated) - len(measured)}
    return relabelled(data, {place: change(stated[place]) for place in stratum}), counts
