"""Preferences that are not a line, and rewards that say how sure they are.

Of the outputs, d = 0, 1 ..., the winner has r_w + d / 4 and the loser r_l - d / 4.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pairs import Pair, cross_entropy, spread


def _skew(y: Pair, tau: float, gates: Tensor) -> Tensor:
    """Plane by plane, v_w x v_l."""
    crosses = [
        (y.r_w + d / 4) * (y.r_l - (d + 1) / 4) - (y.r_w + (d + 1) / 4) * (y.r_l - d / 4)
        for d in range(0, 2 * len(gates), 2)
    ]
    return sum(g * cross for g, cross in zip(gates, crosses, strict=True)) / tau


def _plain(dim: int) -> Tensor:
    return torch.ones(dim // 2, dtype=torch.float64)


def _gated(y: Pair, dim: int, tau: float) -> Tensor:
    gates = dim // 2 * spread(0.5, dim // 2).softmax(-1)
    return -logsigmoid(_skew(y, tau, gates))


def _gpo(y: Pair, beta: float) -> Tensor:
    h_w, h_l = y.logp_w - y.ref_w, y.logp_l - y.ref_l
    return ((beta * h_w - y.gap / 2) ** 2 + (beta * h_l + y.gap / 2) ** 2) / 2


def _pearl(y: Pair, prior: float, sampled: float, pull: float, level: float) -> Tensor:
    p, (drawn, weights) = (3 + prior) / (4 + 2 * prior), _drawn(y)
    mean = (weights * cross_entropy(drawn, p)).sum(-1)
    return cross_entropy(y.r_w - y.r_l, p) + sampled * mean + pull * _off(y, level)


def _likelihood(y: Pair, prior: float, pull: float, level: float) -> Tensor:
    p, (drawn, weights) = (3 + prior) / (4 + 2 * prior), _drawn(y)
    win = (weights * drawn.sigmoid()).sum(-1)
    return -p * win.log() - (1 - p) * (1 - win).log() + pull * _off(y, level)


def _drawn(y: Pair) -> tuple[Tensor, Tensor]:
    """Margins of draws at the points of a rule, and their weights."""
    z, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(32))
    sd = ((y.r_w + 1 / 4).exp() + (y.r_l - 1 / 4).exp()).sqrt()
    return (y.r_w - y.r_l)[:, None] + sd[:, None] * z, weights / weights.sum()


def _off(y: Pair, level: float) -> Tensor:
    return ((y.r_w + 1 / 4 - 2 * np.log(level)) ** 2 + (y.r_l - 1 / 4 - 2 * np.log(level)) ** 2) / 2


PAIRWISE: dict[str, Callable[..., Tensor]] = {
    "gpm": lambda y, dim, tau: -logsigmoid(_skew(y, tau, _plain(dim))),
    "mmpo_gpm": lambda y, gamma, dim, tau: cross_entropy(_skew(y, tau, _plain(dim)), torch.sigmoid(gamma * y.gap)),
    "gpm_gated": _gated,
    "gpo": _gpo,
    "pearl": _pearl,
    "gaussian_likelihood": _likelihood,
}

WORKED: dict[str, float] = {
    # v_w = (1.2, 1.45), v_l = (0.7, 0.45): 1.2 * 0.45 - 1.45 * 0.7 = -0.475; softplus(4.75)
    "gpm": 4.758614,
    # p = sigmoid(1.1) = 0.750260: p softplus(4.75) + (1 - p) softplus(-4.75)
    "mmpo_gpm": 3.572350,
    # second plane: 1.7 * (-0.05) - 1.95 * 0.2 = -0.475 as well, and the gates sum to 2: softplus(9.5)
    "gpm_gated": 9.500075,
    # grades +-0.25 about their mean, log-ratios +-1: (0.1 - 0.25)^2
    "gpo": 0.0225,
    # p = 3/4, M = 0.5: 0.474077 + 0.25 * 0.5 = 0.599077; log variances 1.45 and 0.45: margins N(0.5, 5.831427), whose
    # mean price is 1.089747 (by trapezoids); 0.01 * (1.45^2 + 0.45^2) / 2 = 0.011525
    "pearl": 1.7003485,
    # draws win with probability 0.566787 (the rule of 32 points; 0.566788 by trapezoids):
    # 0.75 * 0.567772 + 0.25 * 0.836525 = 0.634960; 0.001 * 1.1525
    "gaussian_likelihood": 0.636113,
}
