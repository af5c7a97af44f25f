"""A target that weighs data sets so that none is unlearned for another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.matrix import pair_count
from mmpo.objectives import Logistic
from mmpo.types import Evidence, Method, Objective, Reading, Target

RIDGE = 1e-9
"""By how much of the mean square norm equal weights are better than others that come to the same."""


@dataclass(frozen=True)
class MinNorm(Target):
    """Data sets count so that the sum of their directions is the shortest: P = n lambda_v of the evidence of voice v.

    MORE, arXiv 2312.07401. g_v is the gradient of voice v's loss, a mean over its data, with respect to the weight of
    the reward head, which is linear: sum_ij (d loss / d M_ij) (h_i - h_j) in features h. m_v follows g_v by
    ``momentum``, and begins as the first of them. Of the n voices heard so far,

        lambda = argmin over the simplex of || sum_v lambda_v m_v / ||m_v|| ||^2.

    No voice's loss rises along that sum of unit gradients. The paper applies lambda to the losses as they are, where a
    large one still leads; with ``level`` 1 each is divided by its ||m_v|| first, with another one by that power of it,
    the weights again summing to n. ``price`` is that of the method. Unlike in the paper, where a batch has all data
    sets, lambda is that of the steps before: the first step counts all alike, and a voice that a step does not hear
    keeps its m.

    Limits: one voice, and voices of equal gradients, are ``of``, and so are two at ``level`` 0: the middle of two
    directions is always their shortest point. The weights do not change how often a data set is drawn: a large one
    still has more steps.
    """

    of: Target
    price: Objective = field(default_factory=Logistic)
    momentum: float = 0.99
    level: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.momentum <= 1:
            raise UserError(f"momentum is {self.momentum:g}; it lies above 0, where gradients count, and at most at 1")
        if self.level < 0:
            raise UserError(f"level is {self.level:g}; it is 0 or more")

    def check(self, method: Method) -> None:
        if self.price != method.objective:
            raise UserError(
                f"gradients would be those of the price {self.price}, and the price is {method.objective}; give "
                "MinNorm the price of the method"
            )
        if "rewards" not in method.score.needs:
            raise UserError("MinNorm weighs data sets by the head of a reward model; take the score Given")

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"features", "subsets"}

    @property
    def equation(self) -> str:
        weight = f"lambda = argmin_simplex ||sum_v lambda_v g_v / ||g_v||||, g_v by {self.momentum:g}"
        level = f" ||g_v||^-{self.level:g}, of sum n" if self.level else ""
        return f"{self.of.equation}; P <- n lambda_v{level} P of data set v, {weight}"

    def __call__(self, evidence: Evidence, m: Tensor) -> Tensor:
        each, who = evidence.by_voice()
        p = self.of(each, m.repeat(len(who) // len(m), 1, 1))
        known = evidence.memory.get("voice_weight")
        if known is not None:
            p = p * known.to(p)[who, None, None]
        return p.unflatten(0, (-1, len(evidence))).sum(0)

    def memory(self, voices: int) -> dict[str, Tensor]:
        """The gradients have no width before the first step, which shows that of the head."""
        return {"voice_gradient": torch.zeros(voices, 0), "voice_weight": torch.ones(voices)}

    def observe(self, evidence: Evidence, reading: Reading, m: Tensor) -> dict[str, Tensor]:
        """Of each voice in the micro-batch a row: its number, how many data it spoke of, the sum of their gradients."""
        each, who = evidence.by_voice()
        m = m.repeat(len(who) // len(m), 1, 1)
        slope = self.slope(each, m).unflatten(0, (-1, len(evidence)))
        features = reading.require("features").detach().to(m)
        gradient = torch.einsum("abk,bkh->abh", slope, features).flatten(0, 1)
        heard = (pair_count(each.weight) > 0).to(m)
        here, at = who.unique(return_inverse=True)
        rows = m.new_zeros(len(here), 1 + gradient.shape[-1])
        rows = rows.index_add(0, at, torch.cat((heard[:, None], gradient), -1))
        return {"voice_gradient": torch.cat((here[:, None].to(m), rows), -1)}

    def slope(self, each: Evidence, m: Tensor) -> Tensor:
        """The gradient of each row's loss with respect to the rewards, [A * B, K]."""
        with torch.enable_grad():
            at = m.detach().requires_grad_()
            loss = self.price(self.of(each, m), at, each).sum()
            (by_m,) = torch.autograd.grad(loss, at) if loss.requires_grad else (torch.zeros_like(at),)
        return by_m.sum(-1) - by_m.sum(-2)

    def remember(self, memory: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        known, (who, heard, *_) = memory["voice_gradient"], observed["voice_gradient"].unbind(-1)
        sums = observed["voice_gradient"][:, 2:].to(known)
        total = known.new_zeros(len(known)).index_add(0, who.long(), heard.to(known))
        new = known.new_zeros(len(known), sums.shape[-1]).index_add(0, who.long(), sums)
        new = new / total.clamp_min(1)[:, None]
        old = known if known.shape[-1] else torch.zeros_like(new)
        begun = (old != 0).any(-1, keepdim=True)
        mixed = torch.where(begun, old.lerp(new, self.momentum), new)
        gradient = torch.where(total[:, None] > 0, mixed, old)
        return {"voice_gradient": gradient, "voice_weight": shares_of(gradient, self.level)}


def shares_of(gradient: Tensor, level: float = 0.0) -> Tensor:
    """The weights lambda_v / ||g_v||^level of n voices with a gradient [V, H], which sum to n, 1 for those without:
    [V]."""
    norm = gradient.double().norm(dim=-1)
    there = norm > 0
    weight = min_norm(gradient[there] / norm[there, None]) * norm[there] ** -level
    share = torch.ones_like(norm)
    share[there] = there.sum() * weight / weight.sum()
    return share.to(gradient)


def min_norm(g: Tensor) -> Tensor:
    """argmin over the simplex of || sum_v lambda_v g_v ||, [V, H] -> [V]; of several the most even.

    Up to its sum lambda is the x >= 0 that minimises || sum_v x_v g_v ||^2 + (sum x - 1)^2, found exactly by the active
    sets of Lawson and Hanson, Solving Least Squares Problems (1974), ch. 23.
    """
    gram = g.detach().double() @ g.detach().double().mT
    scale = gram.diagonal().mean()
    square = gram / torch.where(scale > 0, scale, 1.0) + 1 + RIDGE * torch.eye(len(g)).to(gram)
    x, free = gram.new_zeros(len(g)), torch.zeros(len(g), dtype=torch.bool, device=g.device)
    for _ in range(10 * len(g)):
        pull = torch.where(free, -torch.inf, 1 - square @ x)
        if pull.max() <= 1e-12:
            break
        free[pull.argmax()] = True
        while True:
            best = torch.zeros_like(x)
            best[free] = torch.linalg.solve(square[free][:, free], torch.ones_like(x[free]))
            if not (blocked := free & (best <= 0)).any():
                break
            x = x + (best - x) * (x / (x - best))[blocked].min()
            free &= x > 1e-15
            x = x * free
        x = best
    return x / x.sum()
