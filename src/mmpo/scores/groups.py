"""Scores of several reward heads: one for each of a few groups that people fall into, or a mixture of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmpo.errors import UserError
from mmpo.matrix import between, pair_count
from mmpo.objectives import Logistic
from mmpo.scores.people import of_voice, with_anybody
from mmpo.types import Evidence, Method, Objective, Reading, Score, Target, inside, nested

ROUTER = "router"
"""The head on the prompt whose softmax weighs the heads."""

SHARES = "shares"
"""The table whose softmax weighs the heads where prompts do not."""

LOSSES = "losses"
"""The memory of what each person's comparisons cost under each head."""


class Heads(Score):
    """A score of several outputs that are weighed, s = sum_k f_k r_k."""

    heads: int

    def outputs(self, voices: int) -> int:
        return self.heads

    def labels(self, outputs: int, voices: Sequence[str]) -> list[str]:
        return self.named(outputs, voices)

    def facets(self, reading: Reading) -> Tensor:
        return reading.require("outputs")

    def log_weights(self, reading: Reading) -> Tensor:
        """log f, [B or 1, heads]."""
        raise NotImplementedError

    def weights(self, reading: Reading) -> Tensor:
        return self.log_weights(reading).exp()

    def rewards(self, reading: Reading) -> Tensor:
        return (self.weights(reading)[:, None] * self.facets(reading)).sum(-1)


def mixed(log_weights: Tensor, outputs: Tensor) -> Tensor:
    """The log-odds of a mixture of Bradley-Terry models, M_ij = logit sum_k f_k sigmoid(r_ki - r_kj).

    ``log_weights`` log f [B or 1, D], ``outputs`` r [B, K, D] -> [B, K, K]. One head gives its own margin.
    """
    # [B, K, K, D]; a head without weight has log f = -inf.
    lead = between(outputs.mT).movedim(1, -1)
    log_f = log_weights[:, None, None]
    return (log_f + logsigmoid(lead)).logsumexp(-1) - (log_f + logsigmoid(-lead)).logsumexp(-1)


class Mixed(Heads):
    """Heads whose probabilities are weighed, and not their rewards."""

    def __call__(self, reading: Reading) -> Tensor:
        return mixed(self.log_weights(reading), self.facets(reading))


# ---------------------------------------------------------------------------------------------- weights by the prompt


class ByPrompt(Heads):
    """Heads whose weights are the softmax of a linear head at the end of the prompt."""

    def on_prompt(self, voices: int) -> dict[str, int]:
        return {ROUTER: self.heads}

    def log_weights(self, reading: Reading) -> Tensor:
        return reading.of_prompt[ROUTER].log_softmax(-1)


@dataclass(frozen=True)
class Routed(ByPrompt):
    """Rewards weighed by the prompt: s = sum_k f_k(x) r_k(x, y), f = softmax of a linear head at the end of the prompt.

    The single-reward alternative of MiCRo, arXiv 2505.24846. Needs a decoder that is read on packed rows. Limits: one
    head is ``Given``. Relations: ``RoutedMixture`` weighs probabilities, and so stays unsure where heads disagree.
    """

    heads: int = 4
    needs = frozenset({"outputs"})

    @property
    def equation(self) -> str:
        return f"M_ij = s_i - s_j, s = sum_k f_k(x) r_k(x, y), f = softmax of a head on the prompt, {self.heads} heads"


@dataclass(frozen=True)
class RoutedMixture(ByPrompt, Mixed):
    """A mixture weighed by the prompt: M_ij = logit sum_k f_k(x) sigmoid(r_k,i - r_k,j), f = softmax of a linear head
    at the end of the prompt.

    MiCRo, arXiv 2505.24846, stage 1: people who differ are a mixture of Bradley-Terry models, which no single reward
    fits. With ``Logistic`` the loss is -< P, log sum_k f_k sigmoid(dr_k) >, for hard labels the likelihood of the
    mixture. M is no difference of rewards; responses are ranked by s = sum_k f_k r_k. Needs a decoder that is read on
    packed rows. The frozen random prior that the authors add to each head is left out: a linear head and a fixed one
    are a linear head that starts elsewhere.

    Limits: one head is ``Given``, as is a router that is sure of one. Relations: ``GlobalMixture`` has one f for all
    prompts, ``Hedged`` one for each person, ``Routed`` one reward.
    """

    heads: int = 4
    needs = frozenset({"outputs"})

    @property
    def equation(self) -> str:
        f = f"f = softmax of a head on the prompt, {self.heads} heads"
        return f"M_ij = logit sum_k f_k(x) sigmoid(r_k,i - r_k,j), {f}"


@dataclass(frozen=True)
class GlobalMixture(Mixed):
    """A mixture with the same weights everywhere: M_ij = logit sum_k f_k sigmoid(r_k,i - r_k,j), f = softmax(a), a
    learned.

    The context-free form of MiCRo, arXiv 2505.24846. Limits: one head is ``Given``. Relations: ``RoutedMixture`` weighs
    by the prompt.
    """

    heads: int = 4
    needs = frozenset({"outputs"})

    @property
    def equation(self) -> str:
        return f"M_ij = logit sum_k f_k sigmoid(r_k,i - r_k,j), f = softmax(a), {self.heads} heads"

    def tables(self, voices: int) -> dict[str, tuple[int, ...]]:
        return {SHARES: (self.heads,)}

    def log_weights(self, reading: Reading) -> Tensor:
        return reading.tables[SHARES].log_softmax(-1)[None]


# ---------------------------------------------------------------------------------------------- weights by the person


class Remembered(Mixed):
    """Heads weighed by how well each has told what a person said: the memory "losses" [voices, heads] sums the price of
    all the person's comparisons under each head; in each step in which the person speaks the past fades by ``fade``.

    A comparison counts once here, whatever its weight.
    """

    said: Target
    price: Objective
    fade: float
    apart = True

    def __post_init__(self) -> None:
        if self.price.listwise:
            raise UserError(f"{type(self.price).__name__} prices whole lists, and heads are told apart pair by pair")
        if any(part.memory(1) for part in nested(self.said)):
            raise UserError(f"{type(self.said).__name__} learns about people itself, and cannot also place them")
        if not 0 <= self.fade <= 1:
            raise UserError(f"fade is {self.fade:g}; it lies between 0, which forgets nothing, and 1")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"outputs", "annotators"}).union(*(part.needs for part in inside(self)))

    def check(self, method: Method) -> None:
        for mine, its in ((self.price, method.objective), (self.said, method.target)):
            if mine != its:
                raise UserError(
                    f"people would be placed by {mine} and paid for by {its}; give {type(self).__name__} the price of "
                    "the method and, as said, its target"
                )

    def memory(self, voices: int) -> dict[str, Tensor]:
        return {LOSSES: torch.zeros(voices, self.heads)}

    @torch.no_grad()
    def observe(self, evidence: Evidence, reading: Reading, m: Tensor) -> dict[str, Tensor]:
        p = self.said(replace(evidence, weight=evidence.compared.to(evidence.weight)), m)
        each = [self.price.price(between(r), evidence) for r in self.facets(reading).unbind(-1)]
        # An infinite price may stand where nobody compared.
        losses = torch.stack([torch.where(p != 0, p * price, 0.0).sum((-1, -2)) for price in each], -1)
        who = torch.zeros(len(p), dtype=torch.long) if reading.who is None else reading.who
        return {LOSSES: torch.cat((torch.stack((who.to(p), pair_count(p)), -1), losses), -1)}

    def remember(self, memory: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        known = memory[LOSSES]
        seen = observed[LOSSES].to(known)
        told = torch.zeros_like(known[:, :1].expand(-1, seen.shape[1] - 1)).index_add(0, seen[:, 0].long(), seen[:, 1:])
        return {LOSSES: torch.where(told[:, :1] > 0, (1 - self.fade) * known, known) + told[:, 1:]}


@dataclass(frozen=True)
class OfGroup(Remembered):
    """Each person belongs to one of a few groups, and each group has a reward: s = r_u(x, y), u the group under whose
    reward the person's comparisons cost least.

    MaxMin-RLHF, arXiv 2402.08925: hard EM over people. Each step is a part of the M-step; the E-step follows it, with
    all that the person said so far, of which the past fades by ``fade``, since rewards were others then. Whose costs
    are equal, such as those of a person unheard of, counts for those groups alike, as a mixture. For anybody the
    weights are the shares of the groups among the people with names.

    Groups that begin alike would never part; the random start of the heads parts them, and another ``seed`` is another
    start. Limits: one group is ``Given``. Relations: ``Hedged`` without certainty; with more groups than people,
    ``PerVoice`` shares less.

    Attributes:
        said: the target of the method.
        price: the price of the method.
        heads: how many groups there are.
        fade: the part of a person's past that is forgotten in a step in which the person speaks.
    """

    said: Target
    price: Objective = field(default_factory=Logistic)
    heads: int = 2
    fade: float = 0.1
    facet = "group"

    @property
    def equation(self) -> str:
        return (
            "M_ij = s_i - s_j, s = r_u(x, y), u = argmin_u of the person's sum of < P, l(M_u) > "
            f"faded by {self.fade:g}, {self.heads} groups"
        )

    def log_weights(self, reading: Reading) -> Tensor:
        losses = reading.tables[LOSSES]
        least = (losses == losses.amin(-1, keepdim=True)).to(reading.require("outputs").dtype)
        return of_voice(with_anybody(least / least.sum(-1, keepdim=True)), reading.who).log()


@dataclass(frozen=True)
class Hedged(Remembered):
    """A mixture adapted to each person by Hedge: pi_k proportional to f_k exp(-eta L_k), with L_k what the person's
    comparisons cost under head k and f of the mixture inside; M_ij = logit sum_k pi_k sigmoid(r_k,i - r_k,j).

    MiCRo, arXiv 2505.24846, stage 2, on the prior of stage 1. With eta = 1, fade = 0 and ``Logistic`` on hard labels pi
    is the posterior over heads, and training by it is soft EM. Anybody is ``of``, as is a person unheard of.

    Limits: eta = 0 is ``of``; eta without end is ``OfGroup`` where ``of`` weighs alike.

    Attributes:
        of: the mixture whose heads these are.
        said: the target of the method.
        price: the price of the method.
        eta: how fast a person's comparisons count.
        fade: the part of a person's past that is forgotten in a step in which the person speaks.
    """

    of: Mixed
    said: Target
    price: Objective = field(default_factory=Logistic)
    eta: float = 1.0
    fade: float = 0.1

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.of.heads

    @property
    def equation(self) -> str:
        pi = f"pi_k = f_k exp(-{self.eta:g} L_k) / Z, L_k = the person's sum of < P, l(M_k) > faded by {self.fade:g}"
        return f"{self.of.equation}; f <- pi, {pi}"

    def log_weights(self, reading: Reading) -> Tensor:
        losses = reading.tables[LOSSES]
        known = losses * (torch.arange(len(losses), device=losses.device) > 0)[:, None]
        return (self.of.log_weights(reading) - self.eta * of_voice(known, reading.who)).log_softmax(-1)
