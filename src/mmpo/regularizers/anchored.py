"""Prices of the rewards themselves, where a comparison sees only their differences."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.matrix import inner, listed, mean_weight, sided
from mmpo.scores import Given, LogRatio
from mmpo.types import Evidence, Reading, Regularizer, Score


@dataclass(frozen=True)
class Anchored(Regularizer):
    """Winner and loser each against a reward of 0: R = < P, won(s_i) + lost(s_j) >."""

    of: Score = field(default_factory=LogRatio)

    def won(self, s: Tensor) -> Tensor:
        """What reward s costs in a response that wins: [B, K] -> [B, K]."""
        raise NotImplementedError

    def lost(self, s: Tensor) -> Tensor:
        """What reward s costs in a response that loses: [B, K] -> [B, K]."""
        raise NotImplementedError

    def __call__(self, p: Tensor, evidence: Evidence, reading: Reading) -> Tensor:
        s = self.of.rewards(reading)
        return sided(p, self.won(s), self.lost(s))


@dataclass(frozen=True)
class NoiseContrast(Anchored):
    """Was it people or the reference who wrote this? won = -log sigmoid(s) + lost, lost = -1/2 log sigmoid(-s).

    NCA, arXiv 2402.05369. Where all K responses are compared alike this is the paper's sum over a list, with each
    response's share of the wins as its weight (derived here). The optimum s_i = log(K share_i) is finite for whoever
    wins at all.
    """

    @property
    def equation(self) -> str:
        return f"< P, -log sigmoid(s_i) - (log sigmoid(-s_i) + log sigmoid(-s_j)) / 2 >, {self.of.equation}"

    def won(self, s: Tensor) -> Tensor:
        return softplus(-s) + self.lost(s)

    def lost(self, s: Tensor) -> Tensor:
        return softplus(s) / 2


@dataclass(frozen=True)
class Apart(Anchored):
    """Winners rise above the reference and losers fall below it: won = sigmoid(-s), lost = sigmoid(s).

    APO-zero, arXiv 2408.06266, eq. 7. Both fade once a response is far from the reference.
    """

    @property
    def equation(self) -> str:
        return f"< P, sigmoid(-s_i) + sigmoid(s_j) >, {self.of.equation}"

    def won(self, s: Tensor) -> Tensor:
        return torch.sigmoid(-s)

    def lost(self, s: Tensor) -> Tensor:
        return torch.sigmoid(s)


@dataclass(frozen=True)
class WinnersDown(Anchored):
    """Winners fall below the reference: won = sigmoid(s), lost = 0. The anchor of APO-down, arXiv 2408.06266, eq. 8."""

    @property
    def equation(self) -> str:
        return f"< P, sigmoid(s_i) >, {self.of.equation}"

    def won(self, s: Tensor) -> Tensor:
        return torch.sigmoid(s)

    def lost(self, s: Tensor) -> Tensor:
        return torch.zeros_like(s)


@dataclass(frozen=True)
class Centred(Regularizer):
    """Rewards of a comparison lie around 0: R = < P, (s_i + s_j)^2 >. arXiv 2312.09244, eq. 2."""

    of: Score = field(default_factory=Given)

    @property
    def equation(self) -> str:
        return f"< P, (s_i + s_j)^2 >, {self.of.equation}"

    def __call__(self, p: Tensor, evidence: Evidence, reading: Reading) -> Tensor:
        s = self.of.rewards(reading)
        return inner(p, (s.unsqueeze(-1) + s.unsqueeze(-2)).square())


@dataclass(frozen=True)
class MeanMargin(Regularizer):
    """The reward of each response is its mean margin: R = mean_i (s_i - mean_j (q_i - q_j))^2.

    GPO, arXiv 2410.02197, with margins of a preference model: the paper's log-ratio goes to 1 / beta times the mean
    margin, its normaliser dropped, and R under ``LogRatio(beta)`` is beta^2 times its square loss. Means run over the
    responses that i was compared with, and itself with 0 among them; of grades that is the grade less the mean of the
    prompt. Relations: with win rates less 1/2 for grades it is SPPO's loss; ``objectives.GapSquared`` asks the same of
    differences alone and leaves the level open: where all K are compared, R = (K - 1) / (2 K) of it + (mean_i s_i)^2.
    """

    of: Score = field(default_factory=LogRatio)

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"grades"}

    @property
    def equation(self) -> str:
        return f"mean_i (s_i - mean_j (q_i - q_j))^2, {self.of.equation}"

    def __call__(self, p: Tensor, evidence: Evidence, reading: Reading) -> Tensor:
        there, met = listed(p), (p != 0) | (p.mT != 0)
        level = evidence.gap.where(met, 0.0).sum(-1) / (1 + met.sum(-1))
        off = torch.square(self.of.rewards(reading) - level).where(there, 0.0)
        return mean_weight(p) * off.sum(-1) / there.sum(-1).clamp_min(1)
