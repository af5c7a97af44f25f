"""Terms of rewards that are distributions, N(mu, sigma^2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmpo.errors import UserError
from mmpo.matrix import between, inner, sided
from mmpo.scores.gaussian import WIDEST, GaussianReward, log_sigma
from mmpo.types import Evidence, Reading, Regularizer

NODES = 32
"""Points of the Gauss-Hermite rule."""


class _OverDraws(Regularizer):
    """A price of margins whose rewards are drawn, r = mu + sigma eps with eps ~ N(0, 1) for each response.

    A margin of two draws is normal, N(mu_i - mu_j, sigma_i^2 + sigma_j^2), so its mean needs no draws: it is taken by a
    Gauss-Hermite rule of 32 points, without noise, and a run that is resumed or split over processes stays the same.
    The rule is exact to 1e-9 where sigma is 1, to 1e-5 where it is 2 and to 0.01 where it is 5.
    """

    needs = frozenset({"outputs"})

    def price(self, log_wins: Tensor, log_weights: Tensor) -> Tensor:
        """log sigmoid of a margin at each point [N, B, K, K] and the log weights [N, 1, 1, 1] -> [B, K, K]."""
        raise NotImplementedError

    def __call__(self, p: Tensor, evidence: Evidence, reading: Reading) -> Tensor:
        m = between(GaussianReward().rewards(reading))
        variance = (2 * log_sigma(reading).clamp(-WIDEST, WIDEST)).exp()
        spread = (variance.unsqueeze(-1) + variance.unsqueeze(-2)).sqrt()
        points, weights = np.polynomial.hermite_e.hermegauss(NODES)
        z, log_weights = (m.new_tensor(x)[:, None, None, None] for x in (points, np.log(weights / weights.sum())))
        return inner(p, self.price(logsigmoid(m + z * spread), log_weights))


@dataclass(frozen=True)
class SampledLogistic(_OverDraws):
    """The mean price of rewards that are drawn: R = < P, E[-log sigmoid(r_i - r_j)] >, r = mu + sigma eps.

    PEARL, arXiv 2306.03615, whose draws are reparameterised. The price is convex, so noise makes every margin dearer,
    whatever the label: alone it drives sigma to 0, most of all where M is near 0. Limit: sigma = 0 is ``Logistic``.
    """

    @property
    def equation(self) -> str:
        return "< P, E[-log sigmoid(r_i - r_j)] >, r = mu + sigma eps"

    def price(self, log_wins: Tensor, log_weights: Tensor) -> Tensor:
        return -(log_weights.exp() * log_wins).sum(0)


@dataclass(frozen=True)
class MarginalLogistic(_OverDraws):
    """The price of the mean win of rewards that are drawn: R = < P, -log E[sigmoid(r_i - r_j)] >, r = mu + sigma eps.

    The likelihood of a label whose rewards are not known; here sigma is a temperature of each response, and grows where
    labels contradict a wide margin. Relations: below ``SampledLogistic`` by Jensen's inequality, and equal to it at
    sigma = 0.
    """

    @property
    def equation(self) -> str:
        return "< P, -log E[sigmoid(r_i - r_j)] >, r = mu + sigma eps"

    def price(self, log_wins: Tensor, log_weights: Tensor) -> Tensor:
        return -(log_weights + log_wins).logsumexp(0)


@dataclass(frozen=True)
class SigmaLevel(Regularizer):
    """Sigma near a level, so that it neither collapses nor explodes: R = mean_i (log sigma_i^2 - log level^2)^2.

    PEARL, arXiv 2306.03615, pulls the variance to a preset value; the squared difference of logs is a form chosen here:
    it is the same for twice the level and half of it, and its pull is finite however small or large sigma is. The
    responses of a comparison count half each. Raises UserError where the level is not above 0.
    """

    level: float = 1.0
    needs = frozenset({"outputs"})

    def __post_init__(self) -> None:
        if self.level <= 0:
            raise UserError(f"level is {self.level:g}; sigma is held at a number above 0")

    @property
    def equation(self) -> str:
        return f"mean_i (log sigma_i^2 - log {self.level:g}^2)^2"

    def __call__(self, p: Tensor, evidence: Evidence, reading: Reading) -> Tensor:
        half = 2 * torch.square(log_sigma(reading) - math.log(self.level))
        return sided(p, half, half)
