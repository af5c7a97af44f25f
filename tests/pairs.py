"""One pair of responses as the papers write it, and as a datum of K = 2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmpo.matrix import compared
from mmpo.types import Evidence, Reading


@dataclass(frozen=True)
class Pair:
    """What the model says of a winner w and a loser l, and the grade by which w leads."""

    logp_w: Tensor
    logp_l: Tensor
    ref_w: Tensor
    ref_l: Tensor
    len_w: Tensor
    len_l: Tensor
    r_w: Tensor
    r_l: Tensor
    gap: Tensor

    @property
    def h(self) -> Tensor:
        return (self.logp_w - self.ref_w) - (self.logp_l - self.ref_l)

    @property
    def h_mean(self) -> Tensor:
        return (self.logp_w - self.ref_w) / self.len_w - (self.logp_l - self.ref_l) / self.len_l

    def grid(self, winner: int) -> tuple[Evidence, Reading]:
        """The same as B data of K = 2 with the winner in place ``winner``."""

        def side(w: Tensor, loser: Tensor) -> Tensor:
            return torch.stack((w, loser) if winner == 0 else (loser, w), dim=-1)

        quality = side(self.gap + 3, torch.full_like(self.gap, 3))
        mask = torch.ones_like(quality, dtype=torch.bool)
        # The winner has three votes of four.
        votes = torch.zeros(*quality.shape, 2, dtype=quality.dtype)
        votes[..., winner, 1 - winner], votes[..., 1 - winner, winner] = 3.0, 1.0
        evidence = Evidence(mask, quality, torch.full_like(votes, torch.nan), votes, compared(mask).to(quality.dtype))
        reading = Reading(
            mask,
            side(self.logp_w, self.logp_l),
            side(self.ref_w, self.ref_l),
            side(self.len_w, self.len_l),
            side(self.r_w, self.r_l),
        )
        return evidence, reading


def pair(*values: float) -> Pair:
    return Pair(*(torch.tensor([value], dtype=torch.float64) for value in values))


def cross_entropy(z: Tensor, p: Tensor | float) -> Tensor:
    """-p log sigmoid(z) - (1 - p) log sigmoid(-z)."""
    return -p * logsigmoid(z) - (1 - p) * logsigmoid(-z)


# One pair worked by hand. Policy: logp -12 and -15, reference -13 and -14, so the log-ratios are +1 and -1 and h = 2;
# lengths 6 and 5, so h per token is 1/6 + 1/5 = 11/30. Reward model: 1.2 and 0.7, so r_w - r_l = 0.5. Grade gap: 0.5.
KNOWN = pair(-12, -15, -13, -14, 6, 5, 1.2, 0.7, 0.5)
