"""Datum -> Evidence: what was said about the responses, as padded tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from mmpo.data.stored import StoredData
from mmpo.errors import UserError, nearest
from mmpo.files import write_json
from mmpo.types import VOICES, Datum, Evidence, Judgement, Voices

Floats = NDArray[np.float32]

VOCABULARY = "voices.json"
"""The file beside a model that names the voices which it tells apart."""


def evidence(data: Sequence[Datum], voices: Vocabulary | None = None) -> Evidence:
    """Evidence of B data, padded to the largest K; with a vocabulary of voices it says who said what."""
    return stack([_one(datum, voices) for datum in data])


@dataclass(frozen=True)
class Vocabulary:
    """Whose voices are told apart, and the number of each.

    Attributes:
        kind: "annotators", "attributes" or "subsets".
        numbers: each name with a number from 1; 0 is for a voice without a name, or one that is not in the vocabulary.
    """

    kind: str
    numbers: Mapping[str, int]

    @classmethod
    def of(cls, kind: str, data: Sequence[Datum]) -> Vocabulary:
        """The names in the data, in their order. Raises UserError for a kind that there is not."""
        if kind not in VOICES:
            raise UserError(f"voices: there is no kind {kind!r}. {nearest(kind, VOICES)}")
        return cls(kind, {name: number for number, name in enumerate(named(data)[kind], 1)})

    def __len__(self) -> int:
        """How many voices there are, the one without a name included."""
        return 1 + len(self.numbers)

    def write(self, folder: Path) -> None:
        """Leave it beside a model."""
        write_json(folder / VOCABULARY, {"kind": self.kind, "names": list(self.numbers)})

    @classmethod
    def read(cls, folder: Path) -> Vocabulary | None:
        """The vocabulary beside a model; None where there is none."""
        path = folder / VOCABULARY
        if not path.is_file():
            return None
        told = json.loads(path.read_text(encoding="utf-8"))
        return cls(told["kind"], {name: number for number, name in enumerate(told["names"], 1)})


def named(data: Sequence[Datum]) -> dict[str, list[str]]:
    """The annotators, attributes and subsets that the data name, each sorted."""
    if isinstance(data, StoredData):
        return data.voices
    annotators = {name for d in data for name in d.annotator_grades}
    annotators |= {j.annotator for d in data for j in d.judgements if j.annotator is not None}
    attributes = {name for d in data for name in d.attributes}
    subsets = {d.subset for d in data if d.subset is not None}
    return dict(zip(VOICES, map(sorted, (annotators, attributes, subsets)), strict=True))


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
        voices=_joined_voices(items) if any(item.voices is not None for item in items) else None,
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


def _joined_voices(items: Sequence[Evidence]) -> Voices:
    voices = [item.voices or _nobody(item) for item in items]
    return Voices(
        **{name: _joined([getattr(one, name) for one in voices], None, fill) for name, fill in _NOBODY.items()}
    )


def _nobody(item: Evidence) -> Voices:
    b, k = item.mask.shape
    square = item.weight.new_zeros(b, 0, k, k)
    return Voices(torch.zeros(b, 0, dtype=torch.long), item.weight.new_zeros(b, 0, k), square, square, square)


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


class _Said(NamedTuple):
    """What was said of a datum by all together, as in ``Evidence``: [K] and three times [K, K]."""

    quality: Floats
    votes: Floats
    stated: Floats
    weight: Floats


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


def _one(datum: Datum, vocabulary: Vocabulary | None) -> Evidence:
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
    said = _Said(quality, judged.votes, judged.stated, weight)
    return Evidence(
        mask=torch.ones(1, k, dtype=torch.bool),
        quality=torch.from_numpy(quality)[None],
        stated=torch.from_numpy(judged.stated)[None],
        votes=torch.from_numpy(judged.votes)[None],
        weight=torch.from_numpy(weight)[None],
        voices=None if vocabulary is None else _voices(datum, vocabulary, said, by_grade),
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


# ---------------------------------------------------------------------------------------------- its voices


def _voices(datum: Datum, vocabulary: Vocabulary, said: _Said, by_grade: Floats) -> Voices:
    """What each voice of a kind said of one datum."""
    if vocabulary.kind == "attributes":
        return _attributes(datum, vocabulary.numbers, said.weight)
    if vocabulary.kind == "subsets":
        return _heard([vocabulary.numbers.get(datum.subset or "", 0)], *(value[None] for value in said))
    return _annotators(datum, vocabulary.numbers, said.weight, by_grade)


def _heard(who: Sequence[int], *values: NDArray[Any]) -> Voices:
    return Voices(torch.tensor([who]), *(torch.from_numpy(value)[None] for value in values))


def _attributes(datum: Datum, numbers: Mapping[str, int], weight: Floats) -> Voices:
    """Each attribute grades; those that grade both responses of a comparison share its weight alike."""
    k = len(datum.responses)
    who = [numbers.get(name, 0) for name in datum.attributes] or [-1]
    quality = np.stack([_grades(line, k) for line in datum.attributes.values() or (None,)])
    given = ~np.isnan(quality)
    graded = (given[:, :, None] & given[:, None, :]).astype(np.float32)
    nothing = np.zeros_like(graded)
    return _heard(who, quality, nothing, nothing + np.float32(np.nan), weight * graded / graded.sum(0).clip(1))


def _annotators(datum: Datum, numbers: Mapping[str, int], weight: Floats, by_grade: Floats) -> Voices:
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
    told: dict[str | None, list[Judgement]] = {name: [] for name in (None, *names)}
    for judgement in datum.judgements:
        told[judgement.annotator].append(judgement)
    tallies = [_tally(theirs, k) for theirs in told.values()]
    votes, stated, _, heard, times = (np.stack(values) for values in zip(*tallies, strict=True))
    times += graded
    # Where nobody has a vote, such as with a count of 0, all who said something share alike.
    share = np.where((heard + graded).sum(0) > 0, heard + graded, times)
    share = weight * share / np.where(share.sum(0) > 0, share.sum(0), 1)
    spoke = times.any((1, 2))
    who = np.where(spoke, [0, *(numbers.get(name, 0) for name in names)], -1)
    kept = np.flatnonzero(spoke) if spoke.any() else [0]
    return _heard(who[kept].tolist(), *(values[kept] for values in (quality, votes, stated, share)))
