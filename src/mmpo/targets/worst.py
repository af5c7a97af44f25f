"""Targets that listen most to those who fare worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.special import entr

from mmpo.errors import UserError
from mmpo.objectives import Logistic
from mmpo.types import VOICES, Evidence, Method, Objective, Reading, Target

EMPHASIS = "emphasis"
"""The memory of how much each voice counts: log w, how it fared last, and the weight of its comparisons so far."""


class Emphasis(Target):
    """A target that weighs voices by w_v, which climbs by an exponentiated gradient on how badly v fares.

    q_v = w_v times v's share of the comparisons so far sums to 1 over the voices, so it is a point of the simplex that
    begins at the shares of the data, with w = 1. Who is silent in a step fares as before.
    """

    step: float

    def __post_init__(self) -> None:
        if self.step < 0:
            raise UserError(f"step is {self.step:g}; a step towards those who fare worst is at least 0")

    def check(self, method: Method) -> None:
        if method.score.apart:
            raise UserError(
                f"{type(method.score).__name__} has a reward for each voice, so none is held back by the others and "
                f"{type(self).__name__} has nothing to weigh; take one reward for all, such as Given"
            )

    def memory(self, voices: int) -> dict[str, Tensor]:
        return {EMPHASIS: torch.zeros(voices, 3)}

    @staticmethod
    def emphasis(evidence: Evidence, who: Tensor) -> Tensor:
        """w of each row of ``who``, [A * B, 1, 1]."""
        known = evidence.memory.get(EMPHASIS)
        w = torch.zeros(1 + int(who.max()), device=who.device) if known is None else known[:, 0]
        return w.to(evidence.weight).exp()[who, None, None]

    def remember(self, memory: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        log_w, last, heard = memory[EMPHASIS].unbind(-1)
        who, *sums = observed[EMPHASIS].to(log_w).unbind(-1)
        paid, mass = log_w.new_zeros(2, len(log_w)).index_add(1, who.long(), torch.stack(sums))
        last = torch.where(mass > 0, paid / mass.clamp_min(torch.finfo(mass.dtype).tiny), last)
        heard = heard + mass
        log_w = log_w + self.step * last
        log_w = log_w - (log_w + heard.log()).logsumexp(0) + heard.sum().log()
        # Who was never heard begins at 1.
        return {EMPHASIS: torch.stack((torch.where(heard > 0, log_w, 0.0), last, heard), -1)}


@dataclass(frozen=True)
class Worst(Emphasis):
    """The voice whose labels the model meets worst counts most: P = sum_v w_v P_v, w_v <- w_v exp(step L_v) / Z.

    P_v is what ``of`` makes of what voice v said: a person, an attribute, or a part of the data. L_v is the mean price
    of v's comparisons, less the entropy of P_v: the least that the logistic price can come to, so that who is unsure is
    not taken for who is wronged (under another price that holds for hard labels). The loss is max over q of
    sum_v q_v L_v: group DRO, arXiv 1911.08731, algorithm 1, on the losses of DPO or of a reward model; the form of
    MaxMin-RLHF, arXiv 2402.08925, that needs no rewards. It makes the worst loss small, which is not always to make the
    least utility large: for that, ``Maximin``.

    Limits: w stays 1 with step = 0 or one voice. P is then ``of`` voice by voice, which is ``of`` itself where each
    comparison has one voice, as of subsets, and where ``of`` is linear in what was said, as ``Votes`` without a prior.
    Relations: ``Posterior`` trusts those the less who disagree with the model; this does the opposite.

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
        super().__post_init__()
        if self.price.listwise:
            raise UserError(f"{type(self.price).__name__} prices whole lists, and voices are weighed pair by pair")
        if self.of.needs & {*VOICES}:
            raise UserError(f"{type(self.of).__name__} tells voices apart itself, and cannot stand inside Worst")

    def check(self, method: Method) -> None:
        super().check(method)
        if self.price != method.objective:
            raise UserError(
                f"voices would be weighed by the price {self.price} and pay {method.objective}; give Worst the price "
                "of the method"
            )

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"annotators"}

    @property
    def equation(self) -> str:
        climb = f"w_v <- w_v exp({self.step:g} L_v) / Z, L_v = mean < P_v, l(M) + log P_v >"
        return f"{self.of.equation}; P <- sum_v w_v P_v, {climb}"

    def __call__(self, evidence: Evidence, m: Tensor) -> Tensor:
        p, who = self.told(evidence, m)
        return (self.emphasis(evidence, who) * p).unflatten(0, (-1, len(evidence))).sum(0)

    def told(self, evidence: Evidence, m: Tensor) -> tuple[Tensor, Tensor]:
        """What each of A voices said, P [A * B, K, K], and who, [A * B]."""
        each, who = evidence.by_voice()
        return self.of(each, m.repeat(len(who) // len(m), 1, 1)), who

    @torch.no_grad()
    def observe(self, evidence: Evidence, reading: Reading, m: Tensor) -> dict[str, Tensor]:
        p, who = self.told(evidence, m)
        price = self.price.price(m, evidence).repeat(len(who) // len(m), 1, 1)
        weight = p + p.mT
        floor = weight * entr(p / torch.where(weight != 0, weight, 1.0))
        # An infinite price may stand where nobody compared.
        paid = torch.where(p != 0, p * price, 0.0) - torch.where(weight > 0, floor, 0.0)
        return {EMPHASIS: torch.stack((who.to(p), paid.sum((-1, -2)), p.sum((-1, -2))), -1)}


@dataclass(frozen=True)
class Maximin(Emphasis):
    """Margin matching on the grades of all voices, of which the worst-off counts most:
    P_ij = sigmoid(gamma sum_v q_v (g_vi - g_vj)), w_v <- w_v exp(-step U_v) / Z.

    MaxMin-RLHF, arXiv 2402.08925: max over pi of min over v of E_pi[g_v] - (beta / gamma) KL(pi || ref). For given q
    the best policy is that of margin matching on the grade sum_v q_v g_v, and q descends the utilities. U_v is how far
    the policy's answers lead those at hand for v: the mean of g_vi - g_vj over the compared j, over the i with weights
    proportional to pi / ref = exp(s_i / beta). Where the answers are draws of the reference it is E_pi[g_v] -
    E_ref[g_v], free of what a reward model adds to all answers of a prompt. The grades of all voices need one unit.

    Limits: step = 0 or one voice is ``BradleyTerry`` on the mean grade of the voices. Relations: ``Worst`` needs no
    grades and weighs losses.

    Attributes:
        gamma: logits to one point of the grades.
        step: of the exponentiated gradient, per point of the grades.
        beta: that of the method's score.
    """

    gamma: float = 1.0
    step: float = 0.1
    beta: float = 0.1
    soft = True
    needs = frozenset({"grades", "annotators"})

    def check(self, method: Method) -> None:
        super().check(method)
        if getattr(method.score, "beta", None) != self.beta:
            raise UserError(
                f"Maximin weighs answers by exp(s / {self.beta:g}), and the score is {method.score}; give it a score "
                "of a policy, and that score's beta"
            )

    @property
    def equation(self) -> str:
        utility = f"U_v = sum_i softmax(s / {self.beta:g})_i mean_j (g_vi - g_vj)"
        return (
            f"P_ij = sigmoid({self.gamma:g} sum_v q_v (g_vi - g_vj)), q_v <- q_v exp(-{self.step:g} U_v) / Z, {utility}"
        )

    def __call__(self, evidence: Evidence, m: Tensor) -> Tensor:
        each, who = evidence.by_voice()

        def together(x: Tensor) -> Tensor:
            return x.unflatten(0, (-1, len(evidence))).sum(0)

        weight = self.emphasis(evidence, who) * each.weight
        gap = together(weight * each.gap) / together(weight).clamp_min(torch.finfo(weight.dtype).tiny)
        return together(each.weight) * torch.sigmoid(self.gamma * gap)

    @torch.no_grad()
    def observe(self, evidence: Evidence, reading: Reading, m: Tensor) -> dict[str, Tensor]:
        each, who = evidence.by_voice()
        rivals = each.compared.sum(-1)
        lead = torch.where(each.compared, each.gap, 0.0).sum(-1) / rivals.clamp_min(1)
        # M_i0 is s_i up to a number of the datum.
        log_ratio = (m[..., 0] / self.beta).repeat(len(who) // len(m), 1).masked_fill(rivals == 0, -torch.inf)
        pi = torch.where(rivals > 0, log_ratio.softmax(-1), 0.0)
        mass = each.weight.sum((-1, -2)) / 2
        return {EMPHASIS: torch.stack((who.to(m), -mass * (pi * lead).sum(-1), mass), -1)}
