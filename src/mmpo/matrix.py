"""The K x K algebra. Entry (i, j) reads "i over j"."""

from __future__ import annotations

import torch
from torch import Tensor


def between(v: Tensor) -> Tensor:
    """Differences of every two entries: [B, K] -> [B, K, K], out_ij = v_i - v_j."""
    return v.unsqueeze(-1) - v.unsqueeze(-2)


def compared(mask: Tensor) -> Tensor:
    """Pairs of two different responses that both exist: [B, K] bool -> [B, K, K] bool."""
    both = mask.unsqueeze(-1) & mask.unsqueeze(-2)
    return both & ~torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)


def pair_count(p: Tensor) -> Tensor:
    """Number of unordered pairs with any mass in P: [B, K, K] -> [B]."""
    return ((p != 0) | (p.mT != 0)).sum((-1, -2)) / 2


def inner(p: Tensor, price: Tensor) -> Tensor:
    """< P, l(M) >: the mean over the comparisons of a datum, [B, K, K] x 2 -> [B].

    A price is ignored where P is zero, also where it is infinite. A datum without comparisons gives 0.
    """
    total = torch.where(p != 0, p * price, 0.0).sum((-1, -2))
    return total / pair_count(p).clamp_min(1)
