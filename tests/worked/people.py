"""People who differ: nobody is named, so each has the weights of the only row."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import relu

from pairs import Pair, cross_entropy


def _ideal(prototypes: int, dim: int, temp: float, most: float) -> Tensor:
    """The mixture of evenly spread prototypes by weights of evenly spread logits from -1 to 1."""
    logits = torch.linspace(-1, 1, prototypes, dtype=torch.float64) / temp
    points = torch.linspace(-most, most, prototypes * dim, dtype=torch.float64).view(prototypes, dim)
    return (logits.exp() / logits.exp().sum()) @ points


def _outputs(y: Pair, dim: int) -> tuple[Tensor, Tensor]:
    """What the model says of winner and loser, [B, dim] each."""
    more = torch.arange(dim) / 4
    return y.r_w[:, None] + more, y.r_l[:, None] - more


def _nearer(y: Pair, prototypes: int, dim: int, temp: float, power: float) -> Tensor:
    """How much nearer the winner is to the ideal than the loser."""
    ideal = _ideal(prototypes, dim, temp, 1.0)
    far_w, far_l = ((x - ideal).square().sum(-1) ** (power / 2) for x in _outputs(y, dim))
    return far_l - far_w


def _closer(y: Pair, prototypes: int, dim: int, temp: float) -> Tensor:
    """How much closer the winner's direction is to the ideal one, times exp(-1) / 0.07."""
    ideal = _ideal(prototypes, dim, temp, 0.5)
    w, loser = ((x @ ideal) / (x.square().sum(-1) * ideal.square().sum()).sqrt() for x in _outputs(y, dim))
    return math.exp(-1) / 0.07 * (w - loser)


PAIRWISE: dict[str, Callable[..., Tensor]] = {
    "pal_a": lambda y, **given: relu(1 - _nearer(y, **given)),
    "pal_b": lambda y, **given: cross_entropy(_closer(y, **given), 1.0),
    "mmpo_pal": lambda y, gamma, **given: cross_entropy(_nearer(y, **given), torch.sigmoid(gamma * y.gap)),
}

WORKED: dict[str, float] = {
    # Weights 1 / (1 + e^2) = 0.119203 and 0.880797 of points -1 + 2 d / 31 and 2 (d + 16) / 31 - 1 give the ideal
    # -0.090790 + 0.064516 d. From there to the winner 1.2 + d / 4 it is sqrt(126.780495) = 11.259684, to the loser
    # 0.7 - d / 4 it is sqrt(72.974976) = 8.542539: M = -2.717145, and the hinge 1 - M.
    "pal_a": 3.717145,
    # Half that ideal, of norm sqrt(0.971848); the products 12.411725 and -6.436896, the norms sqrt(172.54) and
    # sqrt(43.34): cosines 0.958491 and -0.991820. M = 5.255421 * 1.950311 = 10.249703: softplus(-M)
    "pal_b": 0.0000353674,
    # M = 72.974976 - 126.780495 = -53.805520, p = sigmoid(1.1) = 0.750260: p softplus(-M) + (1 - p) softplus(M)
    "mmpo_pal": 40.368135,
}
