"""A target that listens most to those who fare worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives import Logistic
from mmpo.types import VOICES, Evidence, Method, Objective, Reading, Target


@dataclass(frozen=True)
class Worst(Target):
    """The worst-off voice counts most: P = sum_v w_v P_v, w_v proportional to exp(step * sum of the losses of v).

    P_v is what ``of`` makes of what voice v said: a person, an attribute, or a part of the data. After each step w
    climbs by an exponentiated gradient on the mean price that v pays per comparison; who is silent in a step counts
    with the last one. q_v = w_v times v's share of the comparisons sums to 1, so the loss is max over q of
    sum_v q_v L_v, begun at the shares of the data: group DRO, arXiv 1911.08731, algorithm 1. The maximin of
    MaxMin-RLHF, arXiv 2402.08925, in the form that a policy or a reward model can descend.

    Limits: w begins at 1, and stays there with step = 0 or one voice; P is then ``of`` voice by voice, which is ``of``
    itself where each comparison has one voice, as of subsets, and where ``of`` is linear in what was said, as ``Votes``
    without a prior. Relations: ``Posterior`` trusts those the less who disagree with the model; this does the opposite.

    Attributes:
        of: the target.
        price: the price of the method.
        step: of the exponentiated gradient, per unit of the price.
    """

    of: Target
    price: Objective = field(default_factory=Logistic)
    step: float = 0.1
    soft = True

    def __post_init__(self) -> None:
        if self.price.listwise:
            raise UserError(f"{type(self.price).__name__} prices whole lists, and voices are weighed pair by pair")
        if self.step < 0:
            raise UserError(f"step is {self.step:g}; a step towards those who fare worst is at least 0")
        if self.of.needs & {*VOICES}:
            raise UserError(f"{type(self.of).__name__} tells voices apart itself, and cannot stand inside Worst")

    def check(self, method: Method) -> None:
        if self.price != method.objective:
            raise UserError(
                f"voices would be weighed by the price {self.price} and pay {method.objective}; give Worst the price "
                "of the method"
            )
        if method.score.apart:
            raise UserError(
                f"{type(method.score).__name__} has a reward for each voice, so none is held back by the others and "
                "Worst has nothing to weigh; take one reward for all, such as Given"
            )

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"annotators"}

    @property
    def equation(self) -> str:
        return (
            f"{self.of.equation}; P <- sum_v w_v P_v, w_v <- w_v exp({self.step:g} L_v) / Z, L_v = mean < P_v, l(M) >"
        )

    def __call__(self, evidence: Evidence, m: Tensor) -> Tensor:
        p, who = self.told(evidence, m)
        known = evidence.memory.get("emphasis")
        if known is not None:
            p = p * known[:, 0].exp().to(p)[who, None, None]
        return p.unflatten(0, (-1, len(evidence))).sum(0)

    def told(self, evidence: Evidence, m: Tensor) -> tuple[Tensor, Tensor]:
        """What each of A voices said, P [A * B, K, K], and who, [A * B]."""
        each, who = evidence.by_voice()
        return self.of(each, m.repeat(len(who) // len(m), 1, 1)), who

    def memory(self, voices: int) -> dict[str, Tensor]:
        """Of each voice log w, its mean price, and the weight of its comparisons so far."""
        return {"emphasis": torch.zeros(voices, 3)}

    @torch.no_grad()
    def observe(self, evidence: Evidence, reading: Reading, m: Tensor) -> dict[str, Tensor]:
        p, who = self.told(evidence, m)
        price = self.price.price(m, evidence).repeat(len(who) // len(m), 1, 1)
        # An infinite price may stand where nobody compared.
        paid = torch.where(p != 0, p * price, 0.0).sum((-1, -2))
        return {"emphasis": torch.stack((who.to(p), paid, p.sum((-1, -2))), -1)}

    def remember(self, memory: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        log_w, last, heard = memory["emphasis"].unbind(-1)
        who, *sums = observed["emphasis"].to(log_w).unbind(-1)
        paid, mass = log_w.new_zeros(2, len(log_w)).index_add(1, who.long(), torch.stack(sums))
        last = torch.where(mass > 0, paid / mass.clamp_min(torch.finfo(mass.dtype).tiny), last)
        heard = heard + mass
        log_w = log_w + self.step * last
        # sum_v w_v share_v = 1; the weight of nobody is nothing, and who was never heard begins at 1.
        log_w = log_w - (log_w + heard.log()).logsumexp(0) + heard.sum().log()
        return {"emphasis": torch.stack((torch.where(heard > 0, log_w, 0.0), last, heard), -1)}
