"""Several attributes, people or data sets at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pairs import cross_entropy

PAIRWISE: dict[str, Callable[..., Tensor]] = {
    "mmpo_voices": lambda y, gamma: cross_entropy(y.r_w - y.r_l, torch.sigmoid(gamma * y.gap)),
}

WORKED: dict[str, float] = {
    # One voice: p = sigmoid(1.1) = 0.750260, M = 0.5: p softplus(-0.5) + (1 - p) softplus(0.5)
    "mmpo_voices": 0.598947,
}
