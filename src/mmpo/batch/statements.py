"""Datum -> Evidence: what was said about the responses, as padded tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from mmpo.data.stored import StoredData
from mmpo.types import Datum, Evidence, Judgement, People

Floats = NDArray[np.float32]


def evidence(data: Sequence[Datum], annotators: Mapping[str, int] | None = None) -> Evidence:
    """Evidence of B data, padded to the largest K; with ``annotators``, name -> number, it says who said what."""
    return stack([_one(datum, annotators) for datum in data])


def annotator_names(data: Sequence[Datum]) -> dict[str, int]:
    """The vocabulary of annotators: each name in the data with a number from 1, in the order of the names."""
    return {name: number for number, name in enumerate(_people_named(data), 1)}


def _people_named(data: Sequence[Datum]) -> list[str]:
    if isinstance(data, StoredData):
        return data.people
    named = {name for d in data for name in d.annotator_grades}
    named |= {j.annotator for d in data for j in d.judgements if j.annotator is not None}
    return sorted(named)


# ---------------------------------------------------------------------------------------------- many data


def stack(items: Sequence[Evidence]) -> Evidence:
    """Evidence of several batches as one, padded to the largest K, A and C.

    Padding is masked, ungraded, never compared, and said by nobody.
    """
    if len(items) == 1:
        return items[0]
    k = max(item.mask.shape[1] for item in items)
    roles = {name: None for item in items for name in item.roles}

    def contrasts(name: str, *further: int) -> Tensor | None:
        """[B, C, ...], where an item without contrasts has C = 0."""
        found = [getattr(item, name) for item in items]
        if all(x is None for x in found):
            return None
        none = [item.weight.new_zeros(len(item), 0, *further) for item in items]
        return _joined([n if x is None else x for x, n in zip(found, none, strict=True)], None, 0.0)

    return Evidence(
        mask=_joined([item.mask for item in items], k, False),
        quality=_joined([item.quality for item in items], k, torch.nan),
        stated=_joined([item.stated for item in items], k, torch.nan),
        votes=_joined([item.votes for item in items], k, 0.0),
        weight=_joined([item.weight for item in items], k, 0.0),
        people=_joined_people(items) if any(item.people is not None for item in items) else None,
        roles={name: _joined([item.role(name) for item in items], k, False) for name in roles},
        contrasts=contrasts("contrasts", k),
        contrast_p=contrasts("contrast_p"),
        contrast_weight=contrasts("contrast_weight"),
    )


def _joined(parts: Sequence[Tensor], k: int | None, fill: float) -> Tensor:
    """Tensors [B, ...] as one, the further axes padded: to ``k``, or to the largest of each axis where k is None."""
    axes = range(1, parts[0].dim())
    sizes = [k if k is not None else max(part.shape[axis] for part in parts) for axis in axes]

    def grown(part: Tensor) -> Tensor:
        room = [size - part.shape[axis] for axis, size in zip(axes, sizes, strict=True)]
        return pad(part, [n for extra in reversed(room) for n in (0, extra)], value=fill) if any(room) else part

    return torch.cat([grown(part) for part in parts])


_NOBODY = {"who": -1, "quality": torch.nan, "votes": 0.0, "stated": torch.nan, "weight": 0.0}


def _joined_people(items: Sequence[Evidence]) -> People:
    people = [item.people or _nobody(item) for item in items]
    return People(
        **{name: _joined([getattr(one, name) for one in people], None, fill) for name, fill in _NOBODY.items()}
    )


def _nobody(item: Evidence) -> People:
    b, k = item.mask.shape
    square = item.weight.new_zeros(b, 0, k, k)
    return People(torch.zeros(b, 0, dtype=torch.long), item.weight.new_zeros(b, 0, k), square, square, square)


# ---------------------------------------------------------------------------------------------- one datum


class _Tally(NamedTuple):
    """What judgements come to, [K, K] each.

    ``votes`` and ``stated`` (a mean, NaN where there is none) as in ``Evidence``; ``weight`` is the mean weight of the
    judgements of a pair, ``heard`` their votes and ``times`` their number.
    """

    votes: Floats
    stated: Floats
    weight: Floats
    heard: Floats
    times: Floats


def _tally(judgements: Iterable[Judgement], k: int) -> _Tally:
    # numpy, since a torch call on a few numbers takes longer than the numbers.
    votes, gaps, gap_times, weight, heard, times = np.zeros((6, k, k), np.float32)
    for said in judgements:
        i, j = said.first, said.second
        if said.p is not None:
            votes[i, j] += said.p * said.count * said.weight
            votes[j, i] += (1 - said.p) * said.count * said.weight
        if said.gap is not None:
            gaps[i, j] += said.gap
            gaps[j, i] -= said.gap
        for a, b in ((i, j), (j, i)):
            gap_times[a, b] += said.gap is not None
            weight[a, b] += said.weight
            heard[a, b] += said.count * said.weight
            times[a, b] += 1
    stated = np.where(gap_times > 0, gaps / gap_times.clip(1), np.float32(np.nan))
    return _Tally(votes, stated, weight / times.clip(1), heard, times)


def _one(datum: Datum, annotators: Mapping[str, int] | None) -> Evidence:
    k = len(datum.responses)
    quality, by_grade = _grades(datum.grades, k), np.zeros((k, k), np.float32)
    if datum.grades is not None:
        for i, j in _graded_pairs(datum):
            by_grade[i, j] = by_grade[j, i] = datum.weight
    judged = _tally(datum.judgements, k)
    weight = np.where(judged.times > 0, judged.weight * np.float32(datum.weight), by_grade)
    if datum.about:
        asides = [i for i, own in enumerate(datum.about) if own.role]
        weight[asides] = weight[:, asides] = 0
    contrasts, contrast_p, contrast_weight = _contrasts(datum)
    return Evidence(
        mask=torch.ones(1, k, dtype=torch.bool),
        quality=torch.from_numpy(quality)[None],
        stated=torch.from_numpy(judged.stated)[None],
        votes=torch.from_numpy(judged.votes)[None],
        weight=torch.from_numpy(weight)[None],
        people=None if annotators is None else _people(datum, annotators, weight, by_grade),
        roles=_roles(datum) if datum.about else {},
        contrasts=contrasts,
        contrast_p=contrast_p,
        contrast_weight=contrast_weight,
    )


def _grades(line: Sequence[float | None] | None, k: int) -> Floats:
    return np.array([np.nan if grade is None else grade for grade in line or (None,) * k], np.float32)


def _graded_pairs(datum: Datum) -> Iterable[tuple[int, int]]:
    graded = [i for i, grade in enumerate(datum.grades or ()) if grade is not None]
    if datum.pairs is None:
        return combinations(graded, 2)
    return (pair for pair in datum.pairs if pair[0] in graded and pair[1] in graded)


def _roles(datum: Datum) -> dict[str, Tensor]:
    names = {own.role: None for own in datum.about if own.role}
    return {name: torch.tensor([[own.role == name for own in datum.about]]) for name in names}


def _contrasts(datum: Datum) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Coefficients [1, C, K], probabilities [1, C] and weights [1, C]; None where there is no contrast."""
    if not datum.contrasts:
        return None, None, None
    table = [[c.p, c.weight * datum.weight, *c.coefficients] for c in datum.contrasts]
    p, weight, *_ = told = torch.tensor([table]).unbind(-1)
    return torch.stack(told[2:], -1), p, weight


# ---------------------------------------------------------------------------------------------- its people


def _people(datum: Datum, annotators: Mapping[str, int], weight: Floats, by_grade: Floats) -> People:
    """Who said what of one datum. A name that is not in the vocabulary has number 0, and still is a person of its own.

    A grade that no named annotator gave was given by the one without a name, as were statements without one. Several
    people share the weight of a comparison as their votes on it do; who graded both responses has one vote more.
    """
    k = len(datum.responses)
    voters = {j.annotator for j in datum.judgements if j.annotator is not None}
    names = sorted(voters | {*datum.annotator_grades})
    quality = np.stack([_grades(line, k) for line in (None, *map(datum.annotator_grades.get, names))])
    given = ~np.isnan(quality)
    graded = given[:, :, None] & given[:, None, :] & (weight != 0)
    graded[0] = (by_grade != 0) & (weight != 0) & ~graded.any(0)
    quality[0] = np.where(graded[0].any(-1), _grades(datum.grades, k), np.nan)
    tallies = [_tally([j for j in datum.judgements if j.annotator == name], k) for name in (None, *names)]
    votes, stated, _, heard, times = (np.stack(values) for values in zip(*tallies, strict=True))
    times += graded
    # Where nobody has a vote, such as with a count of 0, all who said something share alike.
    share = np.where((heard + graded).sum(0) > 0, heard + graded, times)
    share = weight * share / np.where(share.sum(0) > 0, share.sum(0), 1)
    spoke = times.any((1, 2))
    who = np.where(spoke, [0, *(annotators.get(name, 0) for name in names)], -1)
    kept = np.flatnonzero(spoke) if spoke.any() else [0]
    return People(*(torch.from_numpy(values[kept])[None] for values in (who, quality, votes, stated, share)))
