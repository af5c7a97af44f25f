"""Groups that disagree, of which nothing is known yet: all count alike, or as the router says."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pairs import Pair, cross_entropy


def _chances(y: Pair, heads: int) -> Tensor:
    """[B, heads] the winner's probability under head d, whose outputs lie r_w - r_l + d / 2 apart."""
    return torch.sigmoid((y.r_w - y.r_l)[:, None] + torch.arange(heads) / 2)


def _maxmin(y: Pair, groups: int, fade: float) -> Tensor:
    return -_chances(y, groups).mean(-1).log()


def _graded(y: Pair, groups: int, gamma: float, fade: float) -> Tensor:
    return cross_entropy(_chances(y, groups).mean(-1).logit(), torch.sigmoid(gamma * y.gap))


def _micro(y: Pair, heads: int, entropy: float, **_: float) -> Tensor:
    f = torch.linspace(-0.5, 0.5, heads, dtype=y.r_w.dtype).softmax(-1)
    return -(f * _chances(y, heads)).sum(-1).log() + entropy * (f * f.log()).sum(-1)


PAIRWISE: dict[str, Callable[..., Tensor]] = {
    "maxmin_reward": _maxmin,
    "mmpo_groups": _graded,
    "micro": _micro,
    "micro_people": _micro,
    "maxmin_dpo": lambda y, step, beta: -logsigmoid(beta * y.h),
    "maxmin_mmpo": lambda y, step, gamma, beta: cross_entropy(beta * y.h, torch.sigmoid(gamma * y.gap)),
}

# f = softmax(-1/2, -1/6, 1/6, 1/2) = (.141610, .197633, .275819, .384937), sum f log f = -1.319981, and the mixture is
# .141610 * .622459 + .197633 * .731059 + .275819 * .817574 + .384937 * .880797 = .797182; .226672 - .5 * 1.319981
_MICRO = -0.433319

WORKED: dict[str, float] = {
    # (sigmoid(1/2) + sigmoid(1)) / 2 = (.622459 + .731059) / 2 = .676759; -log
    "maxmin_reward": 0.390440,
    # p = sigmoid(1.1) = .750260: .750260 * .390440 + .249740 * 1.129357
    "mmpo_groups": 0.574977,
    "micro": _MICRO,
    "micro_people": _MICRO,
    # softplus(-0.2)
    "maxmin_dpo": 0.598139,
    # .798139 - .2 * .750260
    "maxmin_mmpo": 0.648087,
}
