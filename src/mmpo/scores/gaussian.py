"""Rewards that are distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mmpo.types import Reading, Score

WIDEST = 10.0
"""No log sigma counts as further from 0 than this, so that a margin stays finite."""


@dataclass(frozen=True)
class GaussianReward(Score):
    """A reward N(mu, sigma^2) of which the mean counts: s = mu(x, y).

    PEARL, arXiv 2306.03615. The model has two outputs, mu and log sigma^2. The price of the means knows nothing of
    sigma; ``regularizers.SampledLogistic`` or ``MarginalLogistic`` reads it, and ``SigmaLevel`` holds it. The paper
    weighs the steps of a segment by learned attention; a response is one step here. Relations: ``Given`` has the mean
    alone.
    """

    needs = frozenset({"outputs"})

    @property
    def equation(self) -> str:
        return "M_ij = s_i - s_j, s = mu(x, y) of a reward N(mu, sigma^2)"

    def outputs(self, voices: int) -> int:
        return 2

    def labels(self, outputs: int, voices: Sequence[str]) -> list[str]:
        return ["mean", "log variance"]

    def rewards(self, reading: Reading) -> Tensor:
        return reading.require("outputs")[..., 0]

    def watched(self, reading: Reading) -> dict[str, Tensor]:
        return {"sigma": log_sigma(reading).detach().clamp(-WIDEST, WIDEST).exp()}


def log_sigma(reading: Reading) -> Tensor:
    """[B, K] log sigma of each reward, half of the second output."""
    return reading.require("outputs")[..., 1] / 2
