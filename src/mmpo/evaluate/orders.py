"""How little an order of K things must contradict what was said of their pairs: the minimum feedback arc set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EXACT = 9
"""The largest K whose best order is found for certain."""


def fewest_against(wins: Floats) -> tuple[Floats, Floats]:
    """The least weight of wins that any order contradicts: a lower and an upper bound, [B] each.

    ``wins`` [B, K, K], at least 0: the weight with which i is to stand before j. Up to K = ``EXACT`` the bounds are
    equal, by dynamic programming over subsets (Held and Karp, 1962, for sequencing). Above, the lower bound packs
    cycles of three that share no weight, each of which costs every order its lightest side; the upper one is what an
    order by wins contradicts after moving single things to better places while that helps.
    """
    if wins.shape[-1] <= EXACT:
        least = _by_subsets(wins)
        return least, least
    return np.array([packed_triples(one) for one in wins]), np.array([_good_order(one) for one in wins])


def _by_subsets(wins: Floats) -> Floats:
    b, k = wins.shape[:2]
    subsets = np.arange(2**k)
    inside = (subsets[:, None] >> np.arange(k)) & 1
    # What it costs to put j behind all of a subset: its wins over them.
    behind = inside.astype(float) @ wins.transpose(0, 2, 1)
    least = np.zeros((b, 2**k))
    for subset in subsets[1:]:
        last = np.flatnonzero(inside[subset])
        least[:, subset] = (least[:, subset ^ (1 << last)] + behind[:, subset, last]).min(-1)
    return least[:, -1]


def packed_triples(wins: Floats) -> float:
    """Weight of cycles of three [K, K] that share none: at least so much is against any order."""
    left, found = wins.copy(), 0.0
    for i, j in np.argwhere(wins > 0):
        while left[i, j] > 0:
            back = np.minimum(left[j], left[:, i])
            k = int(back.argmax())
            size = min(left[i, j], back[k])
            if size <= 0:
                break
            for a, b in ((i, j), (j, k), (k, i)):
                left[a, b] -= size
            found += size
    return found


def _good_order(wins: Floats) -> float:
    order = list(np.argsort(wins.sum(0) - wins.sum(1), kind="stable"))
    least = against(wins, order)
    while True:
        for x in list(order):
            others = [y for y in order if y != x]
            lost, won = np.cumsum([0.0, *wins[x, others]]), np.cumsum([0.0, *wins[others, x]])
            order = others
            order.insert(int((lost + won[-1] - won).argmin()), x)
        now = against(wins, order)
        if now >= least - 1e-12:
            return least
        least = now


def against(wins: Floats, order: list[int]) -> float:
    """The weight of wins [K, K] that an order, the best one first, contradicts."""
    placed = wins[np.ix_(order, order)]
    return float(np.tril(placed).sum())
