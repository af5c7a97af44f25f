"""How many logits one point of quality is worth: fit gamma to the data, or propose one and say that it is proposed.

MMPO turns a graded gap into a probability, sigmoid(gamma gap) (arXiv 2410.03145). Where people's votes stand
beside grades, gamma is the slope of a logistic regression of the votes on the gap, through the origin.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from mmpo import pieces
from mmpo.data.compared import Compared, Floats, Opinions
from mmpo.data.gamma_fit import Sample, fit_slope
from mmpo.data.gamma_fit import logistic_slope as logistic_slope
from mmpo.data.gamma_fit import sigmoid as sigmoid
from mmpo.data.gamma_note import note
from mmpo.data.scale import Scale, rescaled
from mmpo.data.stored import StoredData
from mmpo.errors import UserError
from mmpo.files import write_json
from mmpo.types import Datum

LOG = Scale("log1p")

TARGET = 0.75
"""Where a convention puts the median margin."""

SATURATED = 0.99
"""A target above this, or below 1 - this, is as good as a hard label."""

HEAVY_TAIL = 8.0
"""Gaps are called heavy-tailed where the 95th percentile is this many times the median: with the median at 0.75, such
a gap has p* = 1 / (1 + 3^-8) = 0.9998, so that no one gamma serves both."""


@dataclass(frozen=True)
class GammaFit:
    """A gamma and where it comes from.

    Attributes:
        gamma: logits for one unit of the grades.
        low, high: a 95% interval, by a bootstrap over prompts; None for a convention or a single prompt.
        kind: "votes" (fitted to votes beside grades), "raters" (each annotator's choice from the grades of the
            others), "shares" (sigmoid(gamma (2 p - 1)) closest to p), "convention" (no fit), or "given".
        n: comparisons or votes behind it.
        prompts: prompts behind it.
        saturated_share: share of comparisons whose target is above 0.99 or below 0.01 at this gamma.
        tail: 95th percentile of the non-zero gaps over their median; None where there are none.
        tail_log1p: the same after ``rescale: log1p``, where that is worth knowing.
        note: in words, for people.
        curve: what was fitted, in bins of like size of the gap: (mean gap, share of votes for the better side, votes).
    """

    gamma: float
    low: float | None
    high: float | None
    kind: str
    n: int
    prompts: int
    saturated_share: float
    tail: float | None
    tail_log1p: float | None
    note: str
    curve: tuple[tuple[float, float, float], ...] = ()

    @property
    def heavy_tailed(self) -> bool:
        return self.tail is not None and self.tail > HEAVY_TAIL

    @property
    def heavy_after_log1p(self) -> bool:
        return self.tail_log1p is not None and self.tail_log1p > HEAVY_TAIL

    def as_dict(self) -> dict[str, Any]:
        """The fit as plain JSON."""
        return {**asdict(self), "curve": [list(point) for point in self.curve], "heavy_tailed": self.heavy_tailed}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> GammaFit:
        """The fit of which a record tells."""
        known = {f.name: told[f.name] for f in fields(cls)}
        return cls(**known | {"curve": tuple(tuple(point) for point in told["curve"])})


def fit_gamma(data: Iterable[Datum], *, target: float = TARGET, draws: int = 1000, seed: int = 0) -> GammaFit:
    """The best gamma that the data allow, by the first of these that applies.

    1. Grades and votes on the same comparisons: maximum likelihood of the votes.
    2. Two or more annotators graded the same responses: maximum likelihood of each annotator's choice, given the
       difference of the mean grades of the others, so that nobody predicts themselves.
    3. Grades alone: the gamma that puts the median non-zero gap at ``target``. A convention, and no fit.
    4. Votes alone, where the gap is the vote margin 2 p - 1: the gamma that brings sigmoid(gamma (2 p - 1)) closest to
       p, in cross-entropy. Not each vote given the others: a model averages over the noise of votes by itself, and
       would be pulled to one half twice. With whole votes alone gamma = 2, which touches p at one half. A convention.

    Of data on disk the fit is kept beside them.

    Raises:
        UserError: there is no comparison, all gaps are zero, or people's choices go against the grades.
    """
    if not isinstance(data, StoredData):
        return _best(data if isinstance(data, Sequence) else list(data), target, draws, seed)
    key = pieces.digest({"target": target, "draws": draws, "seed": seed})
    path = data.folder / f"gamma-{key}.json"
    if not path.is_file():
        write_json(path, asdict(_best(data, target, draws, seed)))
    return GammaFit.from_dict(json.loads(path.read_text(encoding="utf-8")))


def _best(data: Sequence[Datum], target: float, draws: int, seed: int) -> GammaFit:
    c = Compared.of(tqdm(data, desc="comparisons for gamma", unit=" prompts", delay=2, disable=None))
    if not len(c):
        raise UserError("gamma: nobody compared any two responses of a prompt; give grades or votes")
    gaps = np.abs(c.gap[~np.isnan(c.gap) & (c.gap != 0)])
    if not len(gaps):
        if not np.isnan(c.gap).all():
            raise UserError("gamma: the grades of every comparison are equal, so gamma does nothing; check the grades")
        return _fitted(data, c, {"shares": _own_shares(c)}, draws, seed) or _told(data, c, "convention", 2.0)
    samples = {"votes": _side_by_side(c), "raters": _left_out_raters(data)}
    middle = float(np.log(target / (1 - target)) / np.median(gaps))
    return _fitted(data, c, samples, draws, seed) or _told(data, c, "convention", middle, target=target)


def given_gamma(data: Iterable[Datum], gamma: float) -> GammaFit:
    """A stated gamma, with what it does to the targets."""
    data = data if isinstance(data, Sequence) else list(data)
    return _told(data, Compared.of(data), "given", gamma)


def saturated(margin: Floats, gamma: float) -> float:
    """Share of the targets sigmoid(gamma margin) above 0.99 or below 0.01."""
    return float(np.mean(sigmoid(gamma * np.abs(margin)) > SATURATED)) if len(margin) else 0.0


def tail(gap: Floats) -> float | None:
    """The 95th percentile of the non-zero |gap| over their median; None where there are none."""
    size = np.abs(gap[~np.isnan(gap) & (gap != 0)])
    return float(np.quantile(size, 0.95) / np.median(size)) if len(size) else None


# ---------------------------------------------------------------------------------------------- what is fitted


def _sample(gap: Floats, p: Floats, count: Floats, prompt: NDArray[np.int64]) -> Sample | None:
    """The part that tells of gamma: a gap of 0 does not."""
    told = ~np.isnan(gap) & ~np.isnan(p) & (gap != 0) & (count > 0)
    return Sample(gap[told], p[told], count[told], prompt[told]) if told.any() else None


def _side_by_side(c: Compared) -> Sample | None:
    return _sample(c.gap, c.share, c.count, c.prompt)


def _left_out_raters(data: Sequence[Datum]) -> Sample | None:
    o = Opinions.of(d for d in data if len(d.annotator_grades) > 1)
    return _sample(o.gap, (o.side + 1) / 2, np.ones(len(o)), o.prompt)


def _own_shares(c: Compared) -> Sample | None:
    return _sample(2 * c.share - 1, c.share, c.count, c.prompt)


def _fitted(
    data: Sequence[Datum], c: Compared, samples: Mapping[str, Sample | None], draws: int, seed: int
) -> GammaFit | None:
    """The first of the samples that can be fitted."""
    for kind, sample in samples.items():
        if sample is not None and (found := fit_slope(sample, draws, seed)) is not None:
            return _told(data, c, kind, *found, sample=sample)
    return None


def _curve(s: Sample, bins: int = 10) -> tuple[tuple[float, float, float], ...]:
    """Votes for the better side by the size of the gap, in bins of about equal mass; equal gaps stay together."""
    size, won = np.abs(s.gap), np.where(s.gap > 0, s.p, 1 - s.p)
    cuts = np.unique(np.quantile(size, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(cuts, size, side="left")
    votes = np.bincount(place, s.count)
    some = votes > 0
    means = [np.bincount(place, s.count * value)[some] / votes[some] for value in (size, won)]
    return tuple((float(g), float(p), float(n)) for g, p, n in zip(*means, votes[some], strict=True))


# ---------------------------------------------------------------------------------------------- what comes of it


def _told(
    data: Sequence[Datum],
    c: Compared,
    kind: str,
    gamma: float,
    low: float | None = None,
    high: float | None = None,
    *,
    sample: Sample | None = None,
    target: float | None = None,
) -> GammaFit:
    """The fit with what it does to the targets, and the whole in words."""
    margin = c.margin[~np.isnan(c.margin)]
    ratio = tail(c.gap)
    fit = GammaFit(
        gamma=gamma,
        low=low,
        high=high,
        kind=kind,
        n=len(sample) if sample else len(margin),
        prompts=len(np.unique(sample.prompt if sample else c.prompt)),
        saturated_share=saturated(margin, gamma),
        tail=ratio,
        tail_log1p=tail(Compared.of(rescaled(d, LOG) for d in data).gap)
        if ratio is not None and ratio > HEAVY_TAIL
        else None,
        note="",
        curve=_curve(sample) if sample else (),
    )
    return replace(fit, note=note(fit, c, target))
