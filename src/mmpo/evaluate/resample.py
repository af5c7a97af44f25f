"""The bootstrap over prompts: comparisons of one prompt stand or fall together, so whole prompts are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_CELLS = 4_000_000


def by_group(group: ArrayLike, values: Floats, column: NDArray[np.intp] | None = None) -> Floats:
    """Sums of values [N] in each group, and in each column where columns [N] are given: [G] or [G, columns]."""
    names, row = np.unique(group, return_inverse=True)
    if column is None:
        return np.asarray(np.bincount(row, values), dtype=float)
    width = int(column.max()) + 1
    sums = np.bincount(row * width + column, values, minlength=len(names) * width)
    return np.asarray(sums, dtype=float).reshape(len(names), width)


def drawn(rows: int, draws: int, seed: int = 0) -> Iterator[Floats]:
    """How often each of G rows is drawn where G are drawn with replacement, ``draws`` times: [some draws, G] each."""
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // rows)
    for start in range(0, draws, step):
        picked = rng.integers(rows, size=(min(step, draws - start), rows))
        yield np.stack([np.bincount(line, minlength=rows) for line in picked]).astype(float)


def resample(table: Floats, draws: int, seed: int = 0) -> Floats:
    """Column sums of G rows drawn with replacement out of [G, C], ``draws`` times: [draws, C]."""
    return np.concatenate([times @ table for times in drawn(len(table), draws, seed)])


def interval(value: float, draws: Floats, groups: int) -> dict[str, float | None]:
    """A value with the 95% percentile interval of its draws [draws]: {value, low, high}, the ends null for one group.

    Resampling repeats the noise, which lifts some metrics, such as ECE; so the draws are moved to lie around the value.
    No end is moved beyond all draws: a share stays in [0, 1].
    """
    if groups < 2 or not len(draws):
        return {"value": value, "low": None, "high": None}
    low, high = np.quantile(draws - (draws.mean() - value), [0.025, 0.975])
    floor = 0.0 if min(value, draws.min()) >= 0 else -math.inf
    return {"value": value, "low": max(float(low), floor), "high": min(float(high), max(value, float(draws.max())))}


def mean_interval(values: ArrayLike, draws: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """The mean of one value [N] a prompt, and the ends of its 95% percentile interval."""
    array = np.asarray(values, dtype=float)
    return ratio_interval(array, np.ones_like(array), draws, seed)


def ratio_interval(above: ArrayLike, below: ArrayLike, draws: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """sum(above) / sum(below) over prompts, [N] each, and the ends of its 95% percentile interval."""
    table = np.stack([np.asarray(above, dtype=float), np.asarray(below, dtype=float)], -1)
    sums = resample(table, draws, seed)
    # A resample may miss every prompt that has anything below.
    found = np.divide(sums[:, 0], sums[:, 1], out=np.full(draws, np.nan), where=sums[:, 1] != 0)
    low, high = np.nanquantile(found, (0.025, 0.975)).tolist()
    return float(table[:, 0].sum() / table[:, 1].sum()), low, high
