"""Prices of single comparisons: l(M)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from mmpo.errors import UserError
from mmpo.types import Evidence, Method, Objective


@dataclass(frozen=True)
class Logistic(Objective):
    """Cross-entropy of P under sigmoid(M): l(M) = -log sigmoid(M - offset).

    With offset 0 the price is proper: its minimum stands where sigmoid(M) = P, so a soft P has a finite optimum.
    DPO, MMPO and Bradley-Terry reward models use offset 0, SimPO (arXiv 2405.14734, eq. 6) an offset gamma > 0.
    """

    offset: float = 0.0

    @property
    def equation(self) -> str:
        offset = f" - {self.offset:g}" if self.offset else ""
        return f"L = < P, -log sigmoid(M{offset}) >"

    def price(self, m: Tensor, evidence: Evidence) -> Tensor:
        return softplus(self.offset - m)


@dataclass(frozen=True)
class GapLogistic(Objective):
    """The winner must lead by the graded gap: l(M) = -log sigmoid(M_ij - scale (q_i - q_j)).

    The additive margin of Llama 2's reward model (arXiv 2307.09288, eq. 2) and, on implicit rewards, the linear form
    of ODPO's offset (arXiv 2402.10571). Under hard labels the optimum is still at infinity, only further out; contrast
    ``targets.BradleyTerry``, which matches the gap.
    """

    scale: float = 1.0
    needs = frozenset({"offset"})

    @property
    def equation(self) -> str:
        return f"L = < P, -log sigmoid(M_ij - {self.scale:g} (q_i - q_j)) >"

    def price(self, m: Tensor, evidence: Evidence) -> Tensor:
        return softplus(self.scale * evidence.gap - m)


@dataclass(frozen=True)
class Squared(Objective):
    """A margin of a fixed size for the winner: l(M) = (M - centre)^2.

    IPO, arXiv 2310.12036, eq. 17, with centre 1 / (2 tau) on the unscaled log-ratio.
    """

    centre: float = 1.0

    @property
    def equation(self) -> str:
        return f"L = < P, (M - {self.centre:g})^2 >"

    def price(self, m: Tensor, evidence: Evidence) -> Tensor:
        return (m - self.centre).square()


@dataclass(frozen=True)
class GapSquared(Objective):
    """The margin must be the graded gap: l(M) = (M_ij - scale (q_i - q_j))^2.

    CoPG, arXiv 2406.19185, on the log-ratio: its gradient is a policy gradient with the other answer as baseline, right
    for answers from anywhere. Relations: the same optimum as ``targets.BradleyTerry(scale)`` under ``Logistic``, whose
    pull is bounded where this one grows with the distance; grades of +-1/4 under ``LogRatio(b)`` are b^2 times IPO with
    tau = b. Whoever wins, the price is the same, so any target that holds the weights will do.
    """

    scale: float = 1.0
    needs = frozenset({"grades"})

    @property
    def equation(self) -> str:
        return f"L = < P, (M_ij - {self.scale:g} (q_i - q_j))^2 >"

    def price(self, m: Tensor, evidence: Evidence) -> Tensor:
        return (m - self.scale * evidence.gap).square()


class Around(Objective):
    """A price that changes another one, of single comparisons."""

    of: Objective

    @property
    def falls(self) -> bool:
        return self.of.falls

    def check(self, method: Method) -> None:
        if self.of.listwise:
            raise UserError(f"{type(self).__name__} changes prices of pairs, and {type(self.of).__name__} prices lists")


@dataclass(frozen=True)
class Steeper(Around):
    """A price that is steeper where the graded lead is wide: M <- M (1 + w (1 - exp(-k |q_i - q_j|))).

    MM-DPO's dynamic beta, arXiv 2502.10391: beta grows from its value at a tie to 1 + w times that. The lead is that of
    the better answer and never negative, so P stays proper under ``Logistic``. Limits: w = 0 is the price inside.
    """

    of: Objective
    w: float = 0.5
    k: float = 0.5

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"grades"}

    @property
    def equation(self) -> str:
        return f"{self.of.equation}, M <- M (1 + {self.w:g} (1 - exp(-{self.k:g} |q_i - q_j|)))"

    def price(self, m: Tensor, evidence: Evidence) -> Tensor:
        return self.of.price(m * (1 - self.w * torch.expm1(-self.k * evidence.gap.abs())), evidence)


@dataclass(frozen=True)
class GapWeighted(Around):
    """A price that counts by the graded gap: l(M) <- |q_i - q_j| l(M).

    The scaled Bradley-Terry loss of HelpSteer2-Preference, arXiv 2410.01257: a strength of 3 counts as three
    comparisons, and one of 0 as none. The unit of the grades scales the loss. Limits: gaps of 1 are the price inside.
    Relations: ``GapLogistic`` asks for a wider lead instead, ``targets.BradleyTerry`` for a certain one.
    """

    of: Objective

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"grades"}

    @property
    def equation(self) -> str:
        return f"{self.of.equation}, each price times |q_i - q_j|"

    def price(self, m: Tensor, evidence: Evidence) -> Tensor:
        return evidence.gap.abs() * self.of.price(m, evidence)


@dataclass(frozen=True)
class Times(Around):
    """A price ``by`` times as high, for methods that weigh it against a regulariser of weight 1."""

    of: Objective
    by: float = 0.1

    @property
    def equation(self) -> str:
        return self.of.equation.replace("L =", f"L = {self.by:g}")

    def price(self, m: Tensor, evidence: Evidence) -> Tensor:
        return self.by * self.of.price(m, evidence)


@dataclass(frozen=True)
class Hinge(Objective):
    """No price beyond a margin: l(M) = max(0, width - M).

    SLiC-HF, arXiv 2305.10425, on the log-likelihood; RSO's hinge-norm, arXiv 2309.06657, on the log-ratio.
    """

    width: float = 1.0

    @property
    def equation(self) -> str:
        return f"L = < P, max(0, {self.width:g} - M) >"

    def price(self, m: Tensor, evidence: Evidence) -> Tensor:
        return relu(self.width - m)
