"""Targets that model labels flipped at random."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mmpo.errors import UserError
from mmpo.types import Evidence, Target


def _check(eps: float) -> None:
    if not 0 <= eps < 0.5:
        raise UserError(f"eps is {eps:g}; a flip rate is at least 0 and below 0.5")


@dataclass(frozen=True)
class Flip(Target):
    """Labels as they would look after flips: P' = (1 - eps) P + eps P^T. Label smoothing.

    cDPO (Mitchell, 2023, "A note on DPO with noisy preferences"). Relations: ``Unflip`` is its inverse.
    """

    of: Target
    eps: float = 0.1

    def __post_init__(self) -> None:
        _check(self.eps)

    @property
    def needs(self) -> frozenset[str]:
        return self.of.needs

    @property
    def equation(self) -> str:
        return f"{self.of.equation}; P <- {1 - self.eps:g} P + {self.eps:g} P^T"

    def __call__(self, evidence: Evidence, m: Tensor) -> Tensor:
        p = self.of(evidence, m)
        return (1 - self.eps) * p + self.eps * p.mT


@dataclass(frozen=True)
class Unflip(Target):
    """The clean labels behind flipped ones: P' = ((1 - eps) P - eps P^T) / (1 - 2 eps).

    Robust DPO, arXiv 2403.00409: an unbiased estimate of the loss on clean labels. P' leaves [0, 1], so the
    logistic price has no lower bound: watch the margin. Relations: the inverse of ``Flip``.
    """

    of: Target
    eps: float = 0.1

    def __post_init__(self) -> None:
        _check(self.eps)

    @property
    def needs(self) -> frozenset[str]:
        return self.of.needs

    @property
    def equation(self) -> str:
        return f"{self.of.equation}; P <- ({1 - self.eps:g} P - {self.eps:g} P^T) / {1 - 2 * self.eps:g}"

    def __call__(self, evidence: Evidence, m: Tensor) -> Tensor:
        p = self.of(evidence, m)
        return ((1 - self.eps) * p - self.eps * p.mT) / (1 - 2 * self.eps)
