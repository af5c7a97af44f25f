"""Groups of people that disagree: found, placed by a few labels, and none left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from evidence.ideas.noisy import chosen, normal
from evidence.ideas.study import Study
from mmpo.matrix import compared
from mmpo.methods import build
from mmpo.methods.groups import with_people
from mmpo.scores.groups import LOSSES
from mmpo.targets.worst import EMPHASIS
from mmpo.types import Evidence, Method, Reading, Voices

# ---------------------------------------------------------------------------------------------- linear heads


def told(gap: Tensor, who: Tensor) -> Evidence:
    """Pairs of which one person each says by how much the first is better, [N]."""
    quality = torch.stack((gap, torch.zeros_like(gap)), -1)
    mask = torch.ones_like(quality, dtype=torch.bool)
    weight, nothing = compared(mask).double(), torch.full((len(gap), 2, 2), torch.nan).double()
    voices = Voices(who[:, None], quality[:, None], 0 * weight[:, None], nothing[:, None], weight[:, None])
    return Evidence(mask, quality, nothing, torch.zeros_like(weight), weight, voices)


@dataclass(frozen=True)
class Heads:
    """What a run learned: rewards [D, heads], a router [contexts, heads] or none, and the memory of the method."""

    method: Method
    theta: Tensor
    router: Tensor | None
    memory: dict[str, Tensor]

    def reading(self, x: Tensor, context: Tensor | None = None, who: Tensor | None = None) -> Reading:
        """Of answers x [N, 2, D] in a context [N, contexts], as ``who`` sees them."""
        outputs = x @ self.theta
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        routed = {} if self.router is None or context is None else {"router": context @ self.router}
        return Reading(
            mask, rewards=outputs[..., 0], outputs=outputs, of_prompt=routed, who=who, tables=dict(self.memory)
        )


def fit(
    method: Method,
    x: Tensor,
    gap: Tensor,
    who: Tensor,
    seed: int,
    *,
    context: Tensor | None = None,
    steps: int = 200,
    batch: int = 256,
    rate: float = 0.05,
) -> Heads:
    """Adam with a learning rate that falls to zero, from small random heads. ``gap`` [N] is what was said."""
    rng = torch.Generator().manual_seed(seed)
    voices = int(who.max()) + 1
    found = Heads(
        method,
        (0.1 * normal(rng, x.shape[-1], method.score.outputs(voices))).requires_grad_(),
        None if context is None else 0.1 * normal(rng, context.shape[-1], method.score.outputs(voices)),
        method.memory(voices),
    )
    if found.router is not None:
        found.router.requires_grad_()
    optimizer = torch.optim.Adam([t for t in (found.theta, found.router) if t is not None], lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        at = torch.randint(len(gap), (batch,), generator=rng)
        evidence = replace(told(gap[at], who[at]), memory=found.memory)
        reading = replace(found, memory={}).reading(x[at], None if context is None else context[at])
        optimizer.zero_grad()
        method(evidence, reading).loss.backward()
        optimizer.step()
        schedule.step()
        found = replace(found, memory=method.remember(found.memory, method.observe(evidence, reading)))
    frozen = None if found.router is None else found.router.detach()
    return replace(found, theta=found.theta.detach(), router=frozen)


def right(heads: Heads, x: Tensor, lead: Tensor, who: Tensor | None, context: Tensor | None = None) -> Tensor:
    """[N] whether the model orders answers as the true lead of the first does, seen by ``who``."""
    return ((heads.method.score(heads.reading(x, context, who))[:, 0, 1] > 0) == (lead > 0)).double()


# ---------------------------------------------------------------------------------------------- hidden groups


@dataclass(frozen=True)
class Camps:
    """People 1 ... P in hidden groups, each with a linear reward of its own.

    Attributes:
        tastes: [groups, D] true rewards.
        group: [1 + P] of each person; the first is nobody.
    """

    tastes: Tensor
    group: Tensor

    @classmethod
    def random(cls, rng: torch.Generator, sizes: tuple[int, ...], d: int = 10, norm: float = 4.0) -> Camps:
        tastes = normal(rng, len(sizes), d)
        group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        return cls(norm * tastes / tastes.norm(dim=-1, keepdim=True), torch.cat([torch.tensor([0]), group]))

    def pairs(self, rng: torch.Generator, each: int) -> tuple[Tensor, Tensor, Tensor]:
        """``each`` pairs of every person: answers [N, 2, D], who, and the true lead of the first."""
        who = torch.arange(1, len(self.group)).repeat_interleave(each)
        x = normal(rng, len(who), 2, self.tastes.shape[-1]) / 2**0.5
        return x, who, ((x[:, 0] - x[:, 1]) * self.tastes[self.group[who]]).sum(-1)

    def worst(self, right: Tensor, who: Tensor) -> float:
        """The least mean over the groups."""
        return min(float(right[self.group[who] == g].mean()) for g in range(len(self.tastes)))


RESTARTS = 3


def best_of(method: Method, x: Tensor, gap: Tensor, who: Tensor, seed: int) -> Heads:
    """The start whose groups explain their people's labels best."""
    tried = [fit(method, x, gap, who, 1000 * seed + n) for n in range(RESTARTS)]
    return min(tried, key=lambda heads: float(heads.memory[LOSSES][1:].amin(-1).sum()))


def labels(rng: torch.Generator, lead: Tensor) -> Tensor:
    """Who won, by Bradley and Terry, as a gap of 1."""
    return 2 * chosen(rng, lead).double() - 1


@cache
def hidden(seed: int, sizes: tuple[int, ...], each: int) -> Mapping[str, float]:
    """``each`` labels of each person."""
    rng = torch.Generator().manual_seed(seed)
    camps = Camps.random(rng, sizes)
    x, who, lead = camps.pairs(rng, each)
    gap = labels(rng, lead)
    grouped = best_of(build("maxmin_reward", groups=len(sizes)), x, gap, who, seed)
    one = fit(build("bradley_terry"), x, gap, who, seed)
    new, whose, truth = camps.pairs(rng, 100)
    own, single = right(grouped, new, truth, whose), right(one, new, truth, None)
    assigned = grouped.memory[LOSSES][1:].argmin(-1)
    return {
        "adjusted Rand index": adjusted_rand_score(camps.group[1:].numpy(), assigned.numpy()),
        "accuracy for the worst group": camps.worst(own, whose),
        "accuracy for the worst group, one reward": camps.worst(single, whose),
        "worst group, groups - one reward": camps.worst(own, whose) - camps.worst(single, whose),
        "mean accuracy": float(own.mean()),
        "mean accuracy, one reward": float(single.mean()),
    }


@cache
def stated(seed: int) -> Mapping[str, float]:
    """People state gaps with noise: the probabilities of their group against those of one reward."""
    rng, gamma = torch.Generator().manual_seed(seed), 2.2
    camps = Camps.random(rng, (30, 10))
    x, who, lead = camps.pairs(rng, 20)
    gap = lead / gamma + 0.5 * normal(rng, len(lead))
    grouped = best_of(build("mmpo_groups", groups=2, gamma=gamma), x, gap, who, seed)
    one = fit(build("mmpo_reward", gamma=gamma), x, gap, who, seed)
    new, whose, truth = camps.pairs(rng, 100)
    off = {
        name: (heads.method.score(heads.reading(new, None, seen))[:, 0, 1].sigmoid() - truth.sigmoid()).abs()
        for name, heads, seen in (("groups", grouped, whose), ("one reward", one, None))
    }
    worst = {name: -camps.worst(-error, whose) for name, error in off.items()}
    return {
        **{f"error of probabilities for the worst group, {name}": error for name, error in worst.items()},
        "worst group, one reward - groups": worst["one reward"] - worst["groups"],
    }


# ---------------------------------------------------------------------------------------------- placed by a few labels

SHOTS = (0, 5, 10, 20, 50)


@cache
def placed(seed: int, entropy: float = 0.5) -> Mapping[str, float]:
    """Three tastes; a label's context tells the taste in 70% of cases. Then 60 new people, each of one taste whatever
    the context."""
    rng = torch.Generator().manual_seed(seed)
    camps = Camps.random(rng, (1, 1, 1), d=5)
    taste = torch.randint(3, (6000,), generator=rng)
    other = torch.randint(3, (6000,), generator=rng)
    context = torch.eye(3).double()[torch.where(torch.rand(6000, generator=rng) < 0.55, taste, other)]
    x = normal(rng, 6000, 2, 5) / 2**0.5
    gap = labels(rng, ((x[:, 0] - x[:, 1]) * camps.tastes[taste]).sum(-1))
    nobody = torch.zeros_like(taste)
    learned = fit(build("micro", heads=3, entropy=entropy), x, gap, nobody, seed, context=context, steps=500)
    one = fit(build("bradley_terry"), x, gap, nobody, seed)
    new = Camps(camps.tastes, torch.cat([nobody[:1], torch.arange(60) % 3]))
    known, who, lead = new.pairs(rng, max(SHOTS))
    said, order = labels(rng, lead), torch.arange(len(who)) % max(SHOTS)
    held_out, whose, truth = new.pairs(rng, 50)
    where, there = (torch.eye(3).double()[torch.randint(3, (n,), generator=rng)] for n in (len(who), len(whose)))
    method = with_people(learned.method, fade=0.0)
    found = {"one reward": float(right(one, held_out, truth, None).mean())}
    found["router alone"] = float(right(learned, held_out, truth, None, there).mean())
    for shots in SHOTS:
        at = (order < shots).nonzero().squeeze(-1)
        memory = method.memory(61)
        heads = replace(learned, method=method, memory=memory)
        seen = heads.reading(known[at], where[at], who[at])
        memory = method.remember(memory, method.observe(told(said[at], who[at]), seen))
        own = right(replace(heads, memory=memory), held_out, truth, whose, there)
        found[f"{shots} labels"] = float(own.mean())
    found["20 labels - router alone"] = found["20 labels"] - found["router alone"]
    found["10 labels - one reward"] = found["10 labels"] - found["one reward"]
    return found


@cache
def named(seed: int) -> Mapping[str, float]:
    """40 people of two tastes, 30 labels each, in contexts that tell nothing of it."""
    rng = torch.Generator().manual_seed(seed)
    camps = Camps.random(rng, (25, 15))
    x, who, lead = camps.pairs(rng, 30)
    gap = labels(rng, lead)
    new, whose, truth = camps.pairs(rng, 100)
    found = {}
    for name in ("micro_people", "micro"):
        heads = fit(build(name, heads=2), x, gap, who, seed, context=torch.ones(len(x), 1).double())
        there = torch.ones(len(new), 1).double()
        found[name] = camps.worst(right(heads, new, truth, whose, there), whose)
    return {
        **{f"accuracy for the worse group, {name}": value for name, value in found.items()},
        "micro_people - micro": found["micro_people"] - found["micro"],
    }


# ---------------------------------------------------------------------------------------------- policies


def maximin(rewards: Tensor, beta: float, steps: int = 3000) -> tuple[Tensor, Tensor]:
    """The policy [K] that maximises min_u E[r_u] - beta KL(pi || uniform) exactly, and the weights q of the groups [U].

    For any q the best policy is softmax(q r / beta), whose value beta log mean exp(q r / beta) is convex in q: it is
    brought to its least by an exponentiated gradient, E[r_u].
    """
    log_q = torch.zeros(len(rewards), dtype=rewards.dtype)
    step = beta / float(rewards.max() - rewards.min()) ** 2
    for _ in range(steps):
        policy = (log_q.softmax(0) @ rewards / beta).softmax(0)
        log_q = (log_q - step * rewards @ policy).log_softmax(0)
    return (log_q.softmax(0) @ rewards / beta).softmax(0), log_q.exp()


def together(rewards: Tensor, shares: Tensor) -> Evidence:
    """One datum of K answers, graded by groups with these shares of the labels: grades [U, K]."""
    groups, k = rewards.shape
    mask = torch.ones(1, k, dtype=torch.bool)
    weight = compared(mask).to(rewards)
    nothing = torch.full_like(weight, torch.nan)
    each = (1, groups, k, k)
    voices = Voices(
        torch.arange(1, groups + 1)[None],
        rewards[None],
        torch.zeros(each).to(rewards),
        torch.full(each, torch.nan).to(rewards),
        shares[None, :, None, None] * weight[:, None],
    )
    return Evidence(mask, (shares @ rewards)[None], nothing, 0 * weight, weight, voices)


def descend(method: Method, evidence: Evidence, steps: int = 1000, rate: float = 0.05) -> tuple[Tensor, Tensor]:
    """The tabular policy [K] that a method comes to from a uniform one, and how badly each voice fares by it [U]: means
    over the last half of the steps, since the weights circle round their saddle."""
    k = evidence.mask.shape[1]
    logits = torch.zeros(1, k, dtype=evidence.weight.dtype, requires_grad=True)
    uniform = torch.full_like(logits.detach(), 1 / k).log()
    memory = {name: value.to(logits.dtype) for name, value in method.memory(1 + evidence.voices.who.shape[1]).items()}
    optimizer = torch.optim.Adam([logits], lr=rate)
    passed = []
    for _ in range(steps):
        now = replace(evidence, memory=memory)
        reading = Reading(now.mask, logits.log_softmax(-1), uniform)
        optimizer.zero_grad()
        method(now, reading).loss.backward()
        optimizer.step()
        memory = method.remember(memory, method.observe(now, reading))
        passed.append((logits.detach().softmax(-1)[0], memory[EMPHASIS][1:, 1]))
    policies, fared = (torch.stack(seen[steps // 2 :]).mean(0) for seen in zip(*passed, strict=True))
    return policies, fared


def worth(rewards: Tensor, policy: Tensor, beta: float) -> float:
    """min_u E[r_u] - beta KL(pi || uniform)."""
    return float((rewards @ policy).min() - beta * (policy * (len(policy) * policy).log()).sum())


@cache
def policies(seed: int, name: str) -> Mapping[str, float]:
    rng = torch.Generator().manual_seed(seed)
    rewards = normal(rng, 2, 6)
    rewards, shares = rewards - rewards.mean(-1, keepdim=True), torch.tensor([10 / 11, 1 / 11], dtype=torch.float64)
    more = {"gamma": 1.0} if name == "maxmin_mmpo" else {}
    evidence = together(rewards, shares)
    found = {"maximin": maximin(rewards, 1.0)[0]}
    for called, step in (("worst first", 0.1), ("all alike", 0.0)):
        found[called], _ = descend(build(name, step=step, beta=1.0, **more), evidence)
    best, reached, usual = (found[called] for called in ("maximin", "worst first", "all alike"))
    worst = {called: float((rewards @ policy).min()) for called, policy in found.items()}
    return {
        **{f"utility of the worse group, {called}": value for called, value in worst.items()},
        "distance to the maximin policy": float((reached - best).abs().sum() / 2),
        "worst utility less KL, worst first - all alike": worth(rewards, reached, 1.0) - worth(rewards, usual, 1.0),
        "utility of the worse group, worst first - all alike": worst["worst first"] - worst["all alike"],
    }


_CAMPS = (
    "People of hidden groups, each group a linear reward of 10 features and norm 4; a pair of answers a label, with the"
    " noise of Bradley-Terry. Linear heads, 200 steps, the best of three starts by the price of their own labels."
    " Measured on 100 new pairs of each person, whose true order is known."
)
_PLACED = (
    "Three tastes of 5 features, 6,000 labels without names; the context of a label tells its taste in 70% of cases."
    " Then 60 new people of one taste each, whose context tells nothing: Hedge weighs the heads by their first labels."
    " Measured on 50 other pairs of each."
)
_BANDIT = (
    "One prompt with six answers, two groups of random utilities, ten of eleven labels by the first. Tabular policies"
    " from a uniform reference, beta 1; the maximin policy of the utilities is known exactly. Utilities are over the"
    " mean of the answers."
)

STUDIES = (
    Study(
        "maxmin_reward",
        "two hidden groups are found, and the smaller one is served as it never is by one reward",
        f"{_CAMPS} 30 and 10 people, 20 labels each.",
        lambda seed: hidden(seed, (30, 10), 20),
        {
            "adjusted Rand index": (0.9, None),
            "accuracy for the worst group": (0.9, None),
            "worst group, groups - one reward": (0.1, None),
        },
    ),
    Study(
        "maxmin_reward",
        "five hidden groups are found",
        f"{_CAMPS} Five groups of 12 people, 30 labels each.",
        lambda seed: hidden(seed, (12,) * 5, 30),
        {
            "adjusted Rand index": (0.9, None),
            "accuracy for the worst group": (0.9, None),
            "worst group, groups - one reward": (0.2, None),
        },
    ),
    Study(
        "mmpo_groups",
        "where people state gaps, the probabilities of their groups come true",
        f"{_CAMPS} 30 and 10 people, who state 20 gaps each, of unit 1 / 2.2 and noise 0.5.",
        stated,
        {
            "error of probabilities for the worst group, groups": (None, 0.05),
            "worst group, one reward - groups": (0.1, None),
        },
    ),
    Study(
        "micro",
        "ten labels place a new person, where neither one reward nor the router knows the taste",
        _PLACED,
        placed,
        {"10 labels": (0.9, None), "10 labels - one reward": (0.1, None), "20 labels - router alone": (0.1, None)},
    ),
    Study(
        "micro_people",
        "with names it learns tastes that no prompt tells",
        f"{_CAMPS} 25 and 15 people, 30 labels each, and a prompt that tells nothing; one start.",
        named,
        {"accuracy for the worse group, micro_people": (0.9, None), "micro_people - micro": (0.05, None)},
    ),
    Study(
        "maxmin_mmpo",
        "it comes to the policy that is best for the worse group",
        _BANDIT,
        lambda seed: policies(seed, "maxmin_mmpo"),
        {
            "distance to the maximin policy": (None, 0.01),
            "worst utility less KL, worst first - all alike": (0.0, None),
        },
    ),
    Study(
        "maxmin_dpo",
        "with labels alone the worse group gains too",
        f"{_BANDIT} The groups say only which answer is better.",
        lambda seed: policies(seed, "maxmin_dpo"),
        {"utility of the worse group, worst first - all alike": (0.0, None)},
    ),
)
