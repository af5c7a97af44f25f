"""Policies for groups that disagree, of which none is left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from evidence.ideas.noisy import normal
from evidence.ideas.study import Study
from mmpo.matrix import compared
from mmpo.methods import build
from mmpo.targets.worst import EMPHASIS
from mmpo.types import Evidence, Method, Reading, Voices


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


_BANDIT = (
    "One prompt with six answers, two groups of random utilities, ten of eleven labels by the first. Tabular policies"
    " from a uniform reference, beta 1; the maximin policy of the utilities is known exactly. Utilities are over the"
    " mean of the answers."
)

STUDIES = (
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
