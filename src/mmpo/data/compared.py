"""The comparisons of a data set as flat arrays, for the data report and for fitting gamma."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmpo.data import texts
from mmpo.data.digests import digest, firsts, joined
from mmpo.data.pairs import ordered, pairs_of
from mmpo.types import Datum, Judgement

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """N comparisons of response i with response j, i < j; every field is an array [N].

    Attributes:
        gap: how much better i is: the difference of the grades, else the mean stated gap; NaN where nothing says so.
        share: the share of votes for i, a tie counting one half; NaN where nobody voted.
        count: the number of votes behind the share.
        squares: the sum over votes of (vote - 1/2)^2: 1/4 for a whole vote, 0 for a tie.
        longer: characters of i minus characters of j.
        prompt: number of the prompt, for resampling.
    """

    gap: Floats
    share: Floats
    count: Floats
    squares: Floats
    longer: Floats
    prompt: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.gap)

    def where(self, mask: NDArray[np.bool_]) -> Compared:
        """The comparisons that a mask [N] selects."""
        return Compared(**{f.name: getattr(self, f.name)[mask] for f in fields(self)})

    @property
    def margin(self) -> Floats:
        """The gap, and where there is none the vote margin 2 share - 1: what a graded method reads."""
        return np.where(np.isnan(self.gap), 2 * self.share - 1, self.gap)

    @property
    def lead(self) -> Floats:
        """Positive where i is preferred, by votes where there are any, else by the gap; 0 for a tie."""
        return np.where(np.isnan(self.share), self.gap, self.share - 0.5)

    @classmethod
    def of(cls, data: Iterable[Datum]) -> Compared:
        columns = tuple(array("d") for _ in range(5))
        prompts, sizes = bytearray(), array("q")
        for d in data:
            pairs = pairs_of(d)
            prompts += digest(texts.key(d.prompt))
            sizes.append(len(pairs))
            length = [len(texts.words(r)) for r in d.responses]
            said: dict[tuple[int, int], list[Judgement]] = {}
            for judgement in d.judgements:
                said.setdefault(ordered(judgement.first, judgement.second), []).append(judgement)
            for i, j in pairs:
                about = said.get((i, j), ())
                row = (_gap(d, i, j, about), *_votes(about, i), length[i] - length[j])
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
        gap, share, count, squares, longer = (np.array(column) for column in columns)
        return cls(gap, share, count, squares, longer, np.repeat(_numbered(prompts), np.array(sizes)))


def _numbered(digests: bytearray) -> NDArray[np.int64]:
    """A number for each digest, from 0 in the order in which different ones come."""
    return np.unique(firsts(joined(digests)), return_inverse=True)[1].astype(np.int64)


def _gap(d: Datum, i: int, j: int, said: Iterable[Judgement]) -> float:
    first, second = (d.grades[i], d.grades[j]) if d.grades is not None else (None, None)
    if first is not None and second is not None:
        return first - second
    stated = [s.gap if s.first == i else -s.gap for s in said if s.gap is not None]
    return fmean(stated) if stated else float("nan")


def _votes(said: Iterable[Judgement], i: int) -> tuple[float, float, float]:
    """Share of the votes for i, their number, and their squares; of votes stated as one share, each is whole."""
    votes = [(s.p if s.first == i else 1 - s.p, s.count) for s in said if s.p is not None]
    total = sum(count for _, count in votes)
    squares = sum(count / 4 if count > 1 else count * (p - 0.5) ** 2 for p, count in votes)
    return (sum(p * count for p, count in votes) / total, total, squares) if total else (float("nan"), 0.0, 0.0)


@dataclass(frozen=True)
class Opinions:
    """What single annotators said of comparisons; every field is an array over opinions [N].

    Attributes:
        unit: number of the comparison.
        annotator: number of the annotator, an index into ``names``.
        side: 1 where the annotator prefers i (i < j), -1 for j, 0 for a tie.
        gap: how much better i is by the mean grade of the other annotators; NaN where annotators gave no grades.
        prompt: number of the prompt.
        names: the annotators.
    """

    unit: NDArray[np.int64]
    annotator: NDArray[np.int64]
    side: Floats
    gap: Floats
    prompt: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.unit)

    def first_of_each(self) -> Opinions:
        """One opinion of each annotator on each comparison: to agree with oneself is no agreement."""
        _, first = np.unique(np.stack([self.unit, self.annotator]), axis=1, return_index=True)
        kept = {name: getattr(self, name)[first] for name in ("unit", "annotator", "side", "gap", "prompt")}
        return Opinions(**kept, names=self.names)

    @classmethod
    def of(cls, data: Iterable[Datum]) -> Opinions:
        """Named votes, and the sign of the difference of each annotator's grades."""
        names: dict[str, int] = {}
        columns = tuple(array("d") for _ in range(4))
        prompts, sizes = bytearray(), array("q")
        units = 0
        for d in data:
            pairs = {pair: units + n for n, pair in enumerate(pairs_of(d))}
            units += len(pairs)
            prompts += digest(texts.key(d.prompt))
            before = len(columns[0])
            for who, pair, side, gap in (*_graded_opinions(d, list(pairs)), *_voted_opinions(d)):
                row = (pairs[pair], names.setdefault(who, len(names)), side, gap)
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
            sizes.append(len(columns[0]) - before)
        unit, annotator, sides, gaps = (np.array(column) for column in columns)
        prompt = np.repeat(_numbered(prompts), np.array(sizes))
        return cls(unit.astype(np.int64), annotator.astype(np.int64), sides, gaps, prompt, tuple(names))


def _voted_opinions(d: Datum) -> Iterable[tuple[str, tuple[int, int], float, float]]:
    for s in d.judgements:
        if s.annotator is not None and s.p is not None:
            side = float(np.sign(s.p - 0.5)) * (1 if s.first < s.second else -1)
            yield s.annotator, ordered(s.first, s.second), side, float("nan")


def _graded_opinions(d: Datum, pairs: list[tuple[int, int]]) -> Iterable[tuple[str, tuple[int, int], float, float]]:
    if not d.annotator_grades or not pairs:
        return
    grades = np.array([[np.nan if g is None else g for g in line] for line in d.annotator_grades.values()], dtype=float)
    i, j = np.array(pairs).T
    gap = grades[:, i] - grades[:, j]
    given = ~np.isnan(gap)
    others = given.sum(0) - given
    rest = np.where(others > 0, (np.nansum(gap, 0) - np.nan_to_num(gap)) / np.maximum(others, 1), np.nan)
    for a, who in enumerate(d.annotator_grades):
        for n in np.flatnonzero(given[a]):
            yield who, pairs[n], float(np.sign(gap[a, n])), float(rest[a, n])


def quantiles(values: Floats, at: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> dict[str, float]:
    """Percentiles by name, such as {"5": ..., "50": ...}; empty without values."""
    if not len(values):
        return {}
    return {f"{100 * q:g}": float(v) for q, v in zip(at, np.quantile(values, at), strict=True)}


def number(value: Any) -> float | None:
    """A float for JSON: None for NaN and None."""
    return None if value is None or np.isnan(value) else float(value)
