"""Targets that model labels flipped at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.targets.window import empty, of_label, push
from mmpo.types import Evidence, Reading, Target


def _check(eps: float, name: str = "eps") -> None:
    if not 0 <= eps < 0.5:
        raise UserError(f"{name} is {eps:g}; a flip rate is at least 0 and below 0.5")


@dataclass(frozen=True)
class Flip(Target):
    """Labels as they would look after flips: P' = (1 - eps) P + eps P^T. Label smoothing.

    cDPO (Mitchell, 2023, "A note on DPO with noisy preferences"). Relations: ``Unflip`` is its inverse.
    """

    of: Target
    eps: float = 0.1
    soft = True

    def __post_init__(self) -> None:
        _check(self.eps)

    @property
    def equation(self) -> str:
        return f"{self.of.equation}; P <- {1 - self.eps:g} P + {self.eps:g} P^T"

    def __call__(self, evidence: Evidence, m: Tensor) -> Tensor:
        p = self.of(evidence, m)
        return (1 - self.eps) * p + self.eps * p.mT


@dataclass(frozen=True)
class Unflip(Target):
    """The clean labels behind flipped ones: P' = ((1 - eps) P - eps P^T) / (1 - 2 eps).

    Robust DPO, arXiv 2403.00409: an unbiased estimate of the loss on clean labels, under prices that are linear in P.
    P' leaves [0, 1]: under the logistic price it is the plain loss less eps / (1 - 2 eps) M of the label, without a
    lower bound. Where eps is above the true rate M goes to infinity. Relations: the inverse of ``Flip``.
    """

    of: Target
    eps: float = 0.1
    soft = True

    def __post_init__(self) -> None:
        _check(self.eps)

    @property
    def equation(self) -> str:
        return f"{self.of.equation}; P <- ({1 - self.eps:g} P - {self.eps:g} P^T) / {1 - 2 * self.eps:g}"

    def __call__(self, evidence: Evidence, m: Tensor) -> Tensor:
        p = self.of(evidence, m)
        return ((1 - self.eps) * p - self.eps * p.mT) / (1 - 2 * self.eps)


@dataclass(frozen=True)
class SmoothUnsure(Target):
    """Label smoothing of the labels that the model doubts, and of no others: P' = Flip(P) where their M <= tau.

    SPA, arXiv 2406.04412. tau is the ``quantile`` of the last ``window`` margins M of labels, halfway between two of
    them, and 0 until there are as many. What the model says is the score's ``seen`` M. Limits: alpha = 0 is ``of``; a
    model that doubts all labels gives ``Flip``, one that doubts none gives ``of``.
    """

    of: Target
    alpha: float = 0.1
    quantile: float = 0.1
    window: int = 50
    soft = True

    def __post_init__(self) -> None:
        _check(self.alpha, "alpha")
        if not 0 <= self.quantile < 1:
            raise UserError(f"quantile is {self.quantile:g}; a share of labels is at least 0 and below 1")
        if self.window < 2:
            raise UserError(f"window is {self.window}; a quantile needs 2 margins or more")

    @property
    def equation(self) -> str:
        flip = f"{1 - self.alpha:g} P + {self.alpha:g} P^T"
        return f"{self.of.equation}; P <- {flip} where M of the label <= tau, its {self.quantile:g} quantile"

    def __call__(self, evidence: Evidence, m: Tensor) -> Tensor:
        return torch.where(self.unsure(evidence, m), Flip(self.of, self.alpha)(evidence, m), self.of(evidence, m))

    def unsure(self, evidence: Evidence, m: Tensor) -> Tensor:
        """[B, K, K] bool, symmetric: the labels that the model doubts. A tie is a tie either way."""
        return of_label(self.of(evidence, m), m) <= self.threshold(evidence.memory)

    def threshold(self, memory: Mapping[str, Tensor]) -> Tensor:
        """tau, a scalar."""
        margins = memory.get("margins", empty(self.window)).sort().values
        at = min(int(self.quantile * len(margins)), len(margins) - 2)
        return margins[at : at + 2].mean().where(margins.isfinite().all(), 0.0)

    def memory(self, voices: int) -> dict[str, Tensor]:
        return {"margins": empty(self.window)}

    def observe(self, evidence: Evidence, reading: Reading, m: Tensor) -> dict[str, Tensor]:
        p = self.of(evidence, m)
        return {"margins": m[p > p.mT]}

    def remember(self, memory: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"margins": push(memory["margins"], observed["margins"])}
