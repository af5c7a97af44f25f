"""A target that learns how far to trust each person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives import Logistic
from mmpo.types import Evidence, Method, Objective, Reading, Target

CERTAIN = 1e-3
"""No reliability counts as closer to 0 or 1 than this: nobody is beyond doubt."""


@dataclass(frozen=True)
class Posterior(Target):
    """Each label is right with the reliability eta_k of its person k, and P is the posterior of being right.

    LCPO, arXiv 2509.24159. A price makes a probability of two orders, p_ij proportional to exp(-l(M)_ij): sigmoid(M)
    for the logistic price. The label "i over j" is then right with W = sigmoid(logit p_ij + logit eta_k),
    and P' = P W + (P (1 - W))^T: all mass stays in its comparison. ``price`` is that of the method. eta_k begins at
    ``initial`` and follows the mean W of the labels that k gave in a step by ``momentum``; who gave none keeps it.
    Where no names are known there is one person.

    Limits: eta near 1 is ``of``; under the logistic price eta = 1/2 has no gradient, and below it labels turn round.
    Relations: ``Flip`` and ``Unflip`` are told one rate of errors and hold it against all labels alike.
    """

    of: Target
    price: Objective = field(default_factory=Logistic)
    initial: float = 0.9
    momentum: float = 0.1
    soft = True

    def __post_init__(self) -> None:
        if self.price.listwise:
            raise UserError(f"{type(self.price).__name__} prices whole lists, and labels are doubted one by one")
        if not 0 < self.initial < 1:
            raise UserError(f"initial is {self.initial:g}; a reliability lies between 0 and 1")
        if not 0 <= self.momentum <= 1:
            raise UserError(f"momentum is {self.momentum:g}; it lies between 0 and 1")

    def check(self, method: Method) -> None:
        if self.price != method.objective:
            raise UserError(
                f"labels would be doubted by the price {self.price} and paid for by {method.objective}; give Posterior "
                "the price of the method"
            )

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"annotators"}

    @property
    def equation(self) -> str:
        trust = (
            f"W = sigmoid(l(M)^T - l(M) + logit eta_k), eta_k = mean of W from {self.initial:g} by {self.momentum:g}"
        )
        return f"{self.of.equation}; P <- P W + (P (1 - W))^T, {trust}"

    def __call__(self, evidence: Evidence, m: Tensor) -> Tensor:
        p, right, _ = self.judged(evidence, m)
        return (right + (p - right).mT).unflatten(0, (-1, len(evidence))).sum(0)

    def judged(self, evidence: Evidence, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What each of A people said, P [A * B, K, K], the part of it held for right, P W, and who, [A * B]."""
        each, who = evidence.by_voice()
        m = m.repeat(len(who) // len(m), 1, 1)
        known = evidence.memory.get("reliability")
        eta = torch.full_like(m[:, :1, :1], self.initial) if known is None else known.to(m)[who, None, None]
        price = self.price.price(m, each)
        trust = torch.sigmoid(price.mT - price + eta.clamp(CERTAIN, 1 - CERTAIN).logit())
        p = self.of(each, m)
        # An infinite price has no W, and may stand where nobody compared.
        return p, torch.where(p != 0, p * trust, 0.0), who

    def memory(self, voices: int) -> dict[str, Tensor]:
        return {"reliability": torch.full((voices,), self.initial)}

    def observe(self, evidence: Evidence, reading: Reading, m: Tensor) -> dict[str, Tensor]:
        p, right, who = self.judged(evidence, m)
        return {"reliability": torch.stack((who.to(p), right.sum((-1, -2)), p.sum((-1, -2))), -1)}

    def remember(self, memory: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        eta = memory["reliability"]
        who, *mass = observed["reliability"].to(eta.device).unbind(-1)
        right, total = eta.new_zeros(2, len(eta)).index_add(1, who.long(), torch.stack(mass).to(eta.dtype))
        mean = right / total.clamp_min(torch.finfo(total.dtype).tiny)
        return {"reliability": torch.where(total > 0, eta.lerp(mean, self.momentum), eta)}
