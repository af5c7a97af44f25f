"""How far the model agrees with people, comparison by comparison.

Every function takes p [N], the share of people who prefer i, and m [N], the model's margin of i over j, and returns
[N]; the metric is the (weighted) mean. None changes when i and j trade places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmpo.data.gamma import sigmoid

Floats = NDArray[np.float64]


def accuracy(p: ArrayLike, m: ArrayLike) -> Floats:
    """1 where the model prefers the side that most people prefer, 0 where the other, 1/2 where either is undecided.

    A tie of people thus gives one half whatever the model says: it neither rewards nor punishes.
    """
    return 0.5 + 0.5 * np.sign(np.asarray(p, float) - 0.5) * np.sign(m)


def agreement(p: ArrayLike, m: ArrayLike) -> Floats:
    """The probability that one person, drawn at random, sides with the model; 1/2 where the model is undecided.

    The mean of max(p, 1 - p) is the best that any model can reach.
    """
    return 0.5 + (np.asarray(p, float) - 0.5) * np.sign(m)


def nll(p: ArrayLike, m: ArrayLike) -> Floats:
    """Cross-entropy of p and sigmoid(m) in nats: -p log sigmoid(m) - (1 - p) log sigmoid(-m).

    The price that training pays under the logistic objective (arXiv 2410.03145). Its floor is the entropy of p.
    """
    m = np.asarray(m, float)
    return np.logaddexp(0.0, m) - np.asarray(p, float) * m


def entropy(p: ArrayLike) -> Floats:
    """The entropy of shares in nats, the floor of ``nll``: -p log p - (1 - p) log(1 - p)."""
    p, tiny = np.asarray(p, float), np.finfo(float).tiny
    return np.asarray(-p * np.log(np.maximum(p, tiny)) - (1 - p) * np.log(np.maximum(1 - p, tiny)))


def brier(p: ArrayLike, m: ArrayLike) -> Floats:
    """Squared distance of probability and share, (sigmoid(m) - p)^2 (Brier, 1950, for two outcomes, one counted)."""
    return np.asarray(np.square(sigmoid(m) - np.asarray(p, float)))
