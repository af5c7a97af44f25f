"""Several attributes, people or data sets at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pairs import cross_entropy


def _divergence(w: Tensor, b: Tensor) -> Tensor:
    """KL of shares (w, 1 - w) from (b, 1 - b)."""
    return w * (w / b).log() + (1 - w) * ((1 - w) / (1 - b)).log()


PAIRWISE: dict[str, Callable[..., Tensor]] = {
    "mmpo_voices": lambda y, gamma: cross_entropy(y.r_w - y.r_l, torch.sigmoid(gamma * y.gap)),
    "helpsteer2": lambda y: ((y.r_w - 3 - y.gap).square() + (y.r_l - 3).square()) / 2,
    "scaled_bradley_terry": lambda y: y.gap * softplus(y.r_l - y.r_w),
    "steerlm2": lambda y, gamma, beta: _divergence(torch.sigmoid(gamma * y.gap), torch.sigmoid(beta * y.h)),
}

WORKED: dict[str, float] = {
    # One voice: p = sigmoid(1.1) = 0.750260, M = 0.5: p softplus(-0.5) + (1 - p) softplus(0.5)
    "mmpo_voices": 0.598947,
    # One voice, whose grades are 3.5 and 3: (1.2 - 3.5)^2 = (0.7 - 3)^2 = 5.29
    "helpsteer2": 5.29,
    # 0.5 softplus(-0.5) = 0.5 * 0.474077
    "scaled_bradley_terry": 0.237038,
    # w = sigmoid(0.5) = 0.622459, s_w - s_l = 2: w softplus(-2) + (1 - w) softplus(2) = 0.882009, less the entropy of w
    "steerlm2": 0.219162,
}
