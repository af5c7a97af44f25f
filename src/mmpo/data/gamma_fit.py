"""The slope of a logistic regression through the origin, by maximum likelihood, with an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmpo.data.compared import Floats
from mmpo.errors import UserError

_TABLE = 1 << 25
"""Numbers in the table of a bootstrap, a part of which is made at a time where there are more."""


def sigmoid(x: ArrayLike) -> Floats:
    """1 / (1 + exp(-x)) in double precision, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -np.asarray(x, float))))


@dataclass(frozen=True)
class Sample:
    """Votes p for i over j (weight of each in ``count``) beside gaps, [N] each, and the prompts they belong to."""

    gap: Floats
    p: Floats
    count: Floats
    prompt: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.gap)


def fit_slope(s: Sample, draws: int, seed: int) -> tuple[float, float | None, float | None] | None:
    """Maximum likelihood and a 95% interval; None where the likelihood has no maximum.

    That is so where no vote goes against its gap. Raises UserError where the slope is not positive.
    """
    against = np.where(s.gap > 0, 1 - s.p, s.p)
    if not (s.count * against).any():
        return None
    unit = float(np.median(np.abs(s.gap)))
    gap = s.gap / unit
    gamma = logistic_slope(gap, s.p, s.count)
    if gamma <= 0:
        raise UserError(
            f"gamma: people's choices go against the grades (the fit gives {gamma / unit:.3g}); check that higher "
            "grades are better, or state gamma"
        )
    low, high = _interval(gap, s, gamma, draws, seed)
    return (gamma / unit, None, None) if low is None or high is None else (gamma / unit, low / unit, high / unit)


def logistic_slope(gap: Floats, p: Floats, count: Floats) -> float:
    """The gamma for which sigmoid(gamma gap) is likeliest to give p, all [N]; the median |gap| should be near 1.

    The root of the concave log-likelihood's slope, sum of count gap (p - sigmoid(gamma gap)).
    """
    gamma = 0.0
    for _ in range(100):
        q = sigmoid(gamma * gap)
        slope = float((count * gap * (p - q)).sum())
        curvature = float((count * gap**2 * q * (1 - q)).sum())
        # A step of at most 1 (in units of the median gap) keeps Newton from overshooting into the flat tails.
        step = float(np.clip(slope / max(curvature, 1e-300), -1, 1))
        gamma += step
        if abs(step) < 1e-10 * (1 + abs(gamma)):
            break
    return gamma


def _interval(gap: Floats, s: Sample, gamma: float, draws: int, seed: int) -> tuple[float | None, float | None]:
    """The percentile bootstrap over prompts, exact up to interpolation.

    The slope of each prompt's log-likelihood is tabulated on a grid of gammas; a resample of prompts is a weighting of
    the table's rows, and its maximum lies where the weighted sum crosses zero.
    """
    names, prompt = np.unique(s.prompt, return_inverse=True)
    if len(names) < 2:
        return None, None
    q = sigmoid(gamma * gap)
    by_prompt = np.bincount(prompt, s.count * gap * (s.p - q))
    error = np.sqrt((by_prompt**2).sum()) / (s.count * gap**2 * q * (1 - q)).sum()
    grid = gamma + error * np.linspace(-8, 8, 129)
    slopes = np.empty((draws, len(grid)))
    most = max(1, _TABLE // len(names))
    for start in range(0, len(grid), most):
        some = slice(start, start + most)
        table = np.empty((len(names), len(grid[some])))
        for column, g in enumerate(grid[some]):
            table[:, column] = np.bincount(prompt, s.count * gap * (s.p - sigmoid(g * gap)))
        rng = np.random.default_rng(seed)  # the same resamples for each part of the grid
        for n in range(draws):
            slopes[n, some] = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names)) @ table
    low, high = np.quantile([np.interp(0.0, -slope, grid) for slope in slopes], [0.025, 0.975])
    return float(low), float(high)
