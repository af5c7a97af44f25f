"""The bootstrap over prompts: comparisons of one prompt stand or fall together, so whole prompts are drawn."""

from __future__ import annotations

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


def resample(table: Floats, draws: int, seed: int = 0) -> Floats:
    """Column sums of G rows drawn with replacement out of [G, C], ``draws`` times: [draws, C]."""
    rng = np.random.default_rng(seed)
    rows = len(table)
    sums = np.empty((draws, table.shape[1]))
    step = max(1, _CELLS // rows)
    for start in range(0, draws, step):
        picked = rng.integers(rows, size=(min(step, draws - start), rows))
        times = np.stack([np.bincount(line, minlength=rows) for line in picked]).astype(float)
        sums[start : start + len(picked)] = times @ table
    return sums
