"""Several data sets at once, of which nothing is known yet, so that they count alike."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pairs import Pair, cross_entropy


def _off(y: Pair) -> Tensor:
    """Squared error on the grades 3 + gap and 3 of one attribute, which weighs 1."""
    return ((y.r_w - 3 - y.gap) ** 2 + (y.r_l - 3) ** 2) / 2


PAIRWISE: dict[str, Callable[..., Tensor]] = {
    "more": lambda y, momentum, level: -logsigmoid(y.r_w - y.r_l),
    "mmpo_more": lambda y, gamma, momentum, level: cross_entropy(y.r_w - y.r_l, torch.sigmoid(gamma * y.gap)),
    "orchestrator": lambda y, tau: _off(y),
    "mmpo_orchestrator": lambda y, gamma: cross_entropy(y.r_w - y.r_l, torch.sigmoid(gamma * y.gap)) + _off(y),
}

WORKED: dict[str, float] = {
    # softplus(-0.5)
    "more": 0.474077,
    # p = sigmoid(1.1) = 0.750260: 0.750260 * 0.474077 + 0.249740 * 0.974077
    "mmpo_more": 0.598947,
    # (1.2 - 3.5)^2 = (0.7 - 3)^2 = 5.29
    "orchestrator": 5.29,
    # 0.598947 + 5.29
    "mmpo_orchestrator": 5.888947,
}
