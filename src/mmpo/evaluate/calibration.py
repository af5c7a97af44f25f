"""Calibration: does a side that the model gives 80% get 80% of the votes?

The order of two responses carries no meaning, so each comparison counts in both directions, (sigmoid(m), p) and
(sigmoid(-m), 1 - p), and bins lie symmetrically over [0, 1]. One direction mirrors the other, so it is enough to read
each comparison from the side that the model prefers, in the upper half of the bins; that is how it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmpo.data.gamma import sigmoid
from mmpo.evaluate.agreement import Floats, agreement
from mmpo.evaluate.comparisons import Comparisons
from mmpo.evaluate.resample import by_group, resample

Kind: TypeAlias = Literal["width", "mass"]
BINS = 20


def confidence(m: ArrayLike) -> Floats:
    """The probability of the side that the model prefers, sigmoid(|m|): [N] in [1/2, 1]."""
    return sigmoid(np.abs(np.asarray(m, float)))


def assign(m: Floats, weight: Floats, bins: int = BINS, kind: Kind = "width") -> NDArray[np.intp]:
    """The bin of each comparison among the bins / 2 above one half, [N].

    Bins have equal width, or equal mass; comparisons with one margin never part, so bins of equal mass may be fewer.
    Raises ValueError for an odd number of bins, which has no mirror image around one half.
    """
    if bins < 2 or bins % 2:
        raise ValueError(f"bins is {bins}; bins mirrored around one half are an even number")
    said = confidence(m)
    if kind == "width":
        return np.digitize(said, np.linspace(0.5, 1.0, bins // 2 + 1)[1:-1])
    order = np.argsort(said, kind="stable")
    mass = np.cumsum(weight[order]) / weight.sum()
    cuts = said[order][np.searchsorted(mass, np.arange(1, bins // 2) / (bins // 2))]
    return np.searchsorted(np.unique(cuts), said, side="left")


def excess(p: Floats, m: Floats, weight: Floats) -> Floats:
    """Weighted confidence minus the share of people on the model's side, [N]: positive where over-confident."""
    return weight * (confidence(m) - agreement(p, m))


def ece_of_sums(sums: Floats, weight: Floats | float) -> Floats:
    """ECE from the summed excess of each bin [..., bins] and the total weight [...]."""
    return np.asarray(np.abs(sums).sum(-1) / weight)


def ece(
    p: ArrayLike, m: ArrayLike, weight: ArrayLike | None = None, *, bins: int = BINS, kind: Kind = "width"
) -> float:
    """Expected calibration error: the weighted mean over bins of |mean probability - mean share of people|.

    Naeini et al. (2015) for equal width (``kind="width"``), Nguyen and O'Connor (2015) for equal mass. ``p`` may be a
    soft share or a hard label. An estimate from few comparisons lies above the truth, since noise adds up within |.|.
    """
    p, m = np.asarray(p, float), np.asarray(m, float)
    weight = np.ones_like(p) if weight is None else np.asarray(weight, float)
    sums = by_group(assign(m, weight, bins, kind), excess(p, m, weight))
    return float(ece_of_sums(sums, weight.sum()))


def ece_by_chance(c: Comparisons, *, bins: int = BINS, kind: Kind = "width") -> float:
    """The ECE that these comparisons would show on average if the model were perfectly calibrated.

    In each bin the excess then has mean zero, and its absolute value the mean of a half-normal, sqrt(2 / pi) sigma;
    sigma is estimated between prompts. NaN where all comparisons are of one prompt.
    """
    if len(np.unique(c.group)) < 2:
        return float("nan")
    bin_of = assign(c.m, c.weight, bins, kind)
    offset = np.bincount(bin_of, excess(c.p, c.m, c.weight)) / np.maximum(np.bincount(bin_of, c.weight), 1e-300)
    noise = by_group(c.group, excess(c.p, c.m, c.weight) - c.weight * offset[bin_of], bin_of)
    sigma = np.sqrt(np.square(noise).sum(0))
    return float(ece_of_sums(np.sqrt(2 / np.pi) * sigma, c.weight.sum()))


@dataclass(frozen=True)
class Reliability:
    """A reliability curve over [0, 1], both directions of every comparison; every field is [bins], empty bins left out.

    ``predicted`` is the mean probability, ``observed`` the mean share of people with its 95% interval ``low`` to
    ``high`` (NaN in a bin that rests on one prompt), ``count`` the number of comparisons.
    """

    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats
    count: NDArray[np.int64]


def reliability(
    c: Comparisons, *, bins: int = BINS, kind: Kind = "width", bootstrap: int = 1000, seed: int = 0
) -> Reliability:
    """The reliability curve, with a percentile bootstrap over prompts."""
    _, bin_of = np.unique(assign(c.m, c.weight, bins, kind), return_inverse=True)
    sides = [by_group(c.group, c.weight * v, bin_of) for v in (confidence(c.m), agreement(c.p, c.m), np.ones(len(c)))]
    predicted, observed = (side.sum(0) / sides[2].sum(0) for side in sides[:2])
    draws = resample(np.hstack(sides[1:]), bootstrap, seed)
    agreed, total = np.split(draws, 2, axis=-1)
    # A bin that no drawn prompt reaches says nothing of its own; it stays where it was.
    share = np.divide(agreed, total, out=np.broadcast_to(observed, total.shape).copy(), where=total > 0)
    low, high = np.quantile(share, [0.025, 0.975], axis=0)
    alone = (sides[2] > 0).sum(0) < 2
    low[alone], high[alone] = np.nan, np.nan
    count = np.bincount(bin_of)
    return Reliability(
        predicted=np.concatenate([1 - predicted[::-1], predicted]),
        observed=np.concatenate([1 - observed[::-1], observed]),
        low=np.concatenate([1 - high[::-1], low]),
        high=np.concatenate([1 - low[::-1], high]),
        count=np.concatenate([count[::-1], count]),
    )
