"""Labels that may be wrong, judges that are not sure, and references that rank wrongly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from evidence.ideas.study import Study
from mmpo.evaluate.health.ranking import flip_table
from mmpo.matrix import between, compared
from mmpo.methods import build
from mmpo.probes import Extrapolation
from mmpo.targets import Posterior, SmoothUnsure
from mmpo.types import Evidence, Method, PerToken, Reading, Voices

Read = Callable[[Tensor, Tensor], Reading]
"""Parameters and the rows of a batch -> what the policy says of them."""

Look = Callable[[Evidence, Tensor, Tensor], None]
"""Looks at a step before its memory learns: the evidence, the seen M and the rows."""

BUCKETS = ((-float("inf"), -1.0), (-1.0, 0.0), (0.0, 1.0), (1.0, 3.0), (3.0, float("inf")))
"""Of beta c, by which the reference prefers the worse answer."""

RELIABLE = torch.tensor([0.95, 0.75, 0.55], dtype=torch.float64)
"""How often each annotator means what the label says."""


def labelled(first: Tensor, who: Tensor | None = None) -> Evidence:
    """Pairs whose first answer wins where ``first`` [N] is true; who said so, [N]."""
    quality = torch.stack((first, ~first), -1).double()
    mask = torch.ones_like(quality, dtype=torch.bool)
    weight, nothing = compared(mask).double(), torch.full((len(first), 2, 2), torch.nan).double()
    evidence = Evidence(mask, quality, nothing, torch.zeros_like(weight), weight)
    if who is None:
        return evidence
    people = Voices(who[:, None], quality[:, None], 0 * weight[:, None], nothing[:, None], weight[:, None])
    return replace(evidence, voices=people)


def train(
    method: Method,
    read: Read,
    first: Tensor,
    theta: Tensor,
    rng: torch.Generator,
    steps: int,
    *,
    who: Tensor | None = None,
    batch: int = 300,
    rate: float = 0.05,
    each: Look = lambda evidence, m, at: None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Adam with a learning rate that falls to zero -> the parameters and the memory of the method."""
    theta, memory = theta.clone().requires_grad_(), method.memory(1 if who is None else int(who.max()) + 1)
    optimizer = torch.optim.Adam([theta], lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        at = torch.randint(len(first), (batch,), generator=rng)
        evidence = replace(labelled(first[at], None if who is None else who[at]), memory=memory)
        reading = read(theta, at)
        optimizer.zero_grad()
        method(evidence, reading).loss.backward()
        optimizer.step()
        schedule.step()
        each(evidence, method.score.seen(reading), at)
        memory = method.remember(memory, method.observe(evidence, reading))
    return theta.detach(), memory


def linear(features: Tensor) -> Read:
    """A log-linear policy on [N, 2, D] features, its reference uniform; the normaliser cancels in M."""

    def read(theta: Tensor, at: Tensor) -> Reading:
        logps = features[at] @ theta
        return Reading(torch.ones_like(logps, dtype=torch.bool), logps, torch.zeros_like(logps))

    return read


def direction(rng: torch.Generator, d: int, norm: float) -> Tensor:
    theta = torch.randn(d, generator=rng, dtype=torch.float64)
    return norm * theta / theta.norm()


def normal(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def chosen(rng: torch.Generator, margin: Tensor) -> Tensor:
    """Labels of Bradley and Terry."""
    return torch.rand(margin.shape, generator=rng, dtype=torch.float64) < margin.sigmoid()


def auc(high: Tensor, low: Tensor) -> float:
    """The probability that a draw of ``high`` exceeds one of ``low``."""
    place = torch.searchsorted(low.sort().values, high)
    return float(place.double().mean() / len(low))


# ---------------------------------------------------------------------------------------------- reliability


def annotated(rng: torch.Generator, n: int, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Answers [N, 2, D], who labelled them, whether the first won, and whether that label is flipped."""
    x, who = normal(rng, n, 2, len(theta)) / 2**0.5, torch.arange(n) % len(RELIABLE)
    wrong = torch.rand(n, generator=rng, dtype=torch.float64) > RELIABLE[who]
    return x, who, chosen(rng, (x[:, 0] - x[:, 1]) @ theta) ^ wrong, wrong


def likeliest(x: Tensor, who: Tensor, first: Tensor) -> Tensor:
    """The reliabilities at the maximum of the likelihood of all labels: the best that anybody can learn from them."""
    sign = 2 * first.double() - 1
    found = torch.tensor([0.0] * x.shape[-1] + [2.2] * len(RELIABLE), dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.LBFGS([found], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        theta, eta = found[: -len(RELIABLE)], found[-len(RELIABLE) :].sigmoid()[who]
        p = (sign * ((x[:, 0] - x[:, 1]) @ theta)).sigmoid()
        loss = -(eta * p + (1 - eta) * (1 - p)).log().mean()
        loss.backward()
        return loss

    optimizer.step(loss)
    return found[-len(RELIABLE) :].sigmoid().detach()


def few_labels(seed: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    theta = direction(rng, 5, 2.0)
    x, who, first, _ = annotated(rng, 6000, theta)
    _, memory = train(build("lcpo", beta=1.0), linear(x), first, torch.zeros_like(theta), rng, 2000, who=who)
    return {
        "largest error of a reliability": float((memory["reliability"] - RELIABLE).abs().max()),
        "the same by maximum likelihood": float((likeliest(x, who, first) - RELIABLE).abs().max()),
    }


@cache
def many_labels(seed: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    theta, lcpo = direction(rng, 5, 2.0), build("lcpo", beta=1.0)
    assert isinstance(lcpo.target, Posterior)
    x, who, first, wrong = annotated(rng, 30_000, theta)
    fit, memory = train(lcpo, linear(x), first, torch.zeros_like(theta), rng, 2000, who=who)
    plain, _ = train(build("dpo", beta=1.0), linear(x), first, torch.zeros_like(theta), rng, 1000)
    m = lcpo.score.seen(linear(x)(fit, torch.arange(len(x))))
    trust = lcpo.target.judged(replace(labelled(first, who), memory=memory), m)[1].sum((-1, -2))
    return {
        "largest error of a reliability": float((memory["reliability"] - RELIABLE).abs().max()),
        "AUC of trust, right against flipped labels": auc(trust[~wrong], trust[wrong]),
        "scale of the learned reward, lcpo": float(fit @ theta / (theta @ theta)),
        "scale of the learned reward, dpo": float(plain @ theta / (theta @ theta)),
    }


# ---------------------------------------------------------------------------------------------- flips


def value_lost(theta: Tensor, fit: Tensor, answers: Tensor) -> float:
    """KL-regularised reward lost to the best policy, on prompts with [N, K, D] answers and a uniform reference."""

    def value(weights: Tensor) -> Tensor:
        log = (answers @ weights).log_softmax(-1)
        return (log.exp() * (answers @ theta - log)).sum(-1).mean()

    return float(value(theta) - value(fit))


@cache
def robustness(seed: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    theta, x = direction(rng, 5, 2.0), normal(rng, 20_000, 2, 5) / 2**0.5
    flipped = torch.rand(20_000, generator=rng) < 0.3
    first = chosen(rng, (x[:, 0] - x[:, 1]) @ theta) ^ flipped
    answers = normal(rng, 2000, 8, 5) / 2**0.5
    error, lost = {}, {}
    for name, method in (
        ("robust", build("robust_dpo", eps=0.3, beta=1.0)),
        ("dpo", build("dpo", beta=1.0)),
        ("cdpo", build("cdpo", eps=0.3, beta=1.0)),
    ):
        fit, _ = train(method, linear(x), first, torch.zeros_like(theta), rng, 300, batch=4000)
        error[name], lost[name] = float((fit - theta).norm() / theta.norm()), value_lost(theta, fit, answers)
    return {
        "relative error of the parameters, robust_dpo": error["robust"],
        "error, dpo - robust_dpo": error["dpo"] - error["robust"],
        "error, cdpo - robust_dpo": error["cdpo"] - error["robust"],
        "regularised reward lost, dpo - robust_dpo": lost["dpo"] - lost["robust"],
        "regularised reward lost, cdpo - robust_dpo": lost["cdpo"] - lost["robust"],
    }


# ---------------------------------------------------------------------------------------------- doubted labels


def one_token(features: Tensor, ref: Tensor, shown: Tensor, lam: float) -> Read:
    """A log-linear policy whose answers are single tokens of a vocabulary V; two, ``shown`` [N, 2], were judged.

    ``features`` is [N, V, D] and ``ref`` [N, V] the logits of the reference.
    """

    def read(theta: Tensor, at: Tensor) -> Reading:
        logits = (ref[at] + features[at] @ theta).repeat_interleave(2, 0)
        others, label = ref[at].repeat_interleave(2, 0), shown[at].flatten()
        logps, ref_logps = (x.log_softmax(-1).gather(-1, label[:, None]).squeeze(-1) for x in (logits, others))
        further = Extrapolation(lam)(logits, label, {"reference": others}).detach()
        nothing, everything = torch.zeros_like(label, dtype=torch.bool), torch.ones_like(shown[at], dtype=torch.bool)
        tokens = PerToken(
            cell=torch.arange(len(label)),
            shape=(len(at), 2),
            logps=logps,
            ref_logps=ref_logps,
            opening=nothing,
            marked=nothing,
            probed={"extrapolated": further},
        )
        return Reading(everything, logps.view(-1, 2), ref_logps.view(-1, 2), tokens=tokens)

    return read


def doubt(seed: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    n, v, d = 3000, 6, 8
    theta, x, ref = direction(rng, d, 2.0), normal(rng, n, v, d), normal(rng, n, v)
    shown = torch.rand(n, v, generator=rng).argsort(-1)[:, :2]
    reward = (x @ theta).gather(-1, shown)
    flipped = torch.rand(n, generator=rng) < 0.3
    first = (reward[:, 0] > reward[:, 1]) ^ flipped
    doubted: list[Tensor] = []
    spa, dpo = build("spa"), build("dpo")
    assert isinstance(spa.target, SmoothUnsure)
    unsure = spa.target.unsure

    def look(evidence: Evidence, m: Tensor, at: Tensor) -> None:
        doubted.append(flipped[at][unsure(evidence, m)[:, 0, 1]])

    read, start = one_token(x, ref, shown, 0.5), torch.zeros(d, dtype=torch.float64)
    smoothed, _ = train(spa, read, first, start, rng, 400, batch=32, each=look)
    plain, _ = train(dpo, read, first, start, rng, 400, batch=32)
    late = torch.cat(doubted[200:]).double()

    def value(fit: Tensor) -> float:
        return float(((ref + x @ fit).softmax(-1) * (x @ theta)).sum(-1).mean())

    return {
        "share of flips among doubted labels / among all": float(late.mean() / flipped.double().mean()),
        "share of labels doubted": len(late) / (32 * 200),
        "true reward, spa - dpo": value(smoothed) - value(plain),
    }


# ---------------------------------------------------------------------------------------------- a judge's word


def bandit(method: Method, u: Tensor, ref: Tensor, hard: bool, rng: torch.Generator) -> Tensor:
    """A tabular policy that samples two answers, is told which is better, and learns, over and over."""
    logits = ref.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 800)
    for _ in range(800):
        two = torch.multinomial(logits.detach().softmax(-1), 512, replacement=True, generator=rng).view(256, 2)
        p = between(u[two]).sigmoid()
        votes = (p > 0.5).double() if hard else p
        mask = torch.ones_like(two, dtype=torch.bool)
        # An answer is not compared with itself.
        weight = compared(mask) * (two[:, :1] != two[:, 1:])[..., None].double()
        nothing = torch.full_like(u[two], torch.nan)
        evidence = Evidence(mask, nothing, torch.full_like(weight, torch.nan), weight * votes, weight)
        logps, ref_logps = (x.log_softmax(-1)[two] for x in (logits, ref))
        optimizer.zero_grad()
        method(evidence, Reading(mask, logps, ref_logps)).loss.backward()
        optimizer.step()
        schedule.step()
    return logits.detach().softmax(-1)


def judged(seed: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    u, ref, beta = normal(rng, 6), 0.5 * normal(rng, 6), 0.5
    best = (ref.log_softmax(-1) + u / beta).softmax(-1)
    soft, hard = (bandit(build("osp", beta=beta), u, ref, h, rng) for h in (False, True))
    near, far = (float((policy - best).abs().sum() / 2) for policy in (soft, hard))
    return {
        "distance to the best regularised policy, soft labels": near,
        "distance to the best regularised policy, hard - soft": far - near,
        "weight on the best answer, hard labels": float(hard[u.argmax()]),
        "weight on the best answer, the best regularised policy": float(best[u.argmax()]),
    }


# ---------------------------------------------------------------------------------------------- rankings


def rankings(seed: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    n, d, beta = 2000, 100, 0.1
    theta, x = direction(rng, d, 2.0), normal(rng, n, 2, d) / 2**0.5
    # Student's t with 2 degrees of freedom: beta c > 3 for some 5% of pairs.
    ref = normal(rng, n) / (normal(rng, n, 2).square().sum(-1) / 2).sqrt() / beta
    first = chosen(rng, (x[:, 0] - x[:, 1]) @ theta)
    sign = 2 * first.double() - 1

    def read(fit: Tensor, at: Tensor) -> Reading:
        base = torch.stack((ref, 0 * ref), -1)[at]
        return Reading(torch.ones_like(base, dtype=torch.bool), base + x[at] @ fit, base)

    def margin(fit: Tensor) -> Tensor:
        return sign * (ref + (x[:, 0] - x[:, 1]) @ fit)

    before, c = sign * ref, -beta * sign * ref
    hard = c > 3
    found, flips = {}, {}
    for name, scale in (("dpo", 1.0), ("reference counted half", 0.5)):
        method = build("dpo_ref_scale", ref_scale=scale, beta=beta)
        fit, _ = train(method, read, first, torch.zeros_like(theta), rng, 600, rate=0.5)
        after = margin(fit)
        table = flip_table(before[hard], after[hard], torch.ones_like(c[hard])).double()
        flips[name] = float(table[0, 1] / table[0].sum())
        loss = -logsigmoid(beta * (after - before))
        found[name] = [float(loss[(low < c) & (c <= high)].mean()) for low, high in BUCKETS]
    fall = min(math.log(2) - loss for loss in found["dpo"])
    return {
        "smallest fall of DPO's loss in a bucket of beta c": fall,
        "share of pairs with beta c > 3 that DPO flips": flips["dpo"],
        "share flipped, reference counted half - dpo": flips["reference counted half"] - flips["dpo"],
    }


_ANNOTATED = (
    "Three annotators err at rates of 5, 25 and 45%, on a linear reward of five features and scale 2; the policy is "
    "log-linear, and each step sees 300 labels."
)

FLIPPED = (
    "20,000 pairs, a linear reward of five features and scale 2, each method told the true rate. Accuracy would not "
    "tell them apart, for shrinking keeps the order. Measured: the error of the parameters, and the KL-regularised "
    "true reward that the policy loses to the best one."
)

STUDIES = (
    Study(
        "lcpo",
        "annotators' reliabilities are learned with the policy, from 30,000 labels to within 0.03",
        f"{_ANNOTATED} Measured too: whether flipped labels are trusted less. With 6,000 labels, the first size tried, "
        "the error is larger (see the next study).",
        many_labels,
        {
            "largest error of a reliability": (None, 0.03),
            "AUC of trust, right against flipped labels": (0.85, None),
        },
        seeds=10,
    ),
    Study(
        "lcpo",
        "6,000 labels tell annotators' reliabilities to within 0.05",
        f"{_ANNOTATED} The maximum of the likelihood says how much the labels hold.",
        few_labels,
        {"largest error of a reliability": (None, 0.05)},
        seeds=10,
    ),
    Study(
        "lcpo",
        "the scale of the reward is learned that plain DPO shrinks",
        f"{_ANNOTATED} The scale is a share of the true one; 30,000 labels.",
        many_labels,
        {"scale of the learned reward, lcpo": (0.9, 1.15), "scale of the learned reward, dpo": (None, 0.6)},
        seeds=10,
    ),
    Study(
        "robust_dpo",
        "where 30% of the labels are flipped it beats DPO and cDPO, told the true rate",
        FLIPPED,
        robustness,
        {
            "error, dpo - robust_dpo": (0, None),
            "error, cdpo - robust_dpo": (0, None),
            "regularised reward lost, dpo - robust_dpo": (0, None),
            "regularised reward lost, cdpo - robust_dpo": (0, None),
        },
    ),
    Study(
        "robust_dpo",
        "where 30% of the labels are flipped it finds the parameters to within a tenth",
        f"{FLIPPED} This was one claim with the one above until the interval was seen to reach past the tenth.",
        robustness,
        {"relative error of the parameters, robust_dpo": (None, 0.1)},
    ),
    Study(
        "spa",
        "the labels that the policy doubts are flipped more than twice as often as others",
        "3,000 pairs of single-token answers, 30% of the labels flipped; a log-linear policy and its extrapolation "
        "(lam 1/2). Measured over the second half of a run. The difference in true reward to DPO is shown, and is not "
        "part of the claim.",
        doubt,
        {"share of flips among doubted labels / among all": (2, None)},
    ),
    Study(
        "osp",
        "a judge's probabilities lead online learning to the best regularised policy, hard labels to collapse",
        "A bandit with six answers; the policy samples two, a judge says sigmoid(u_i - u_j) or only who is better, 800 "
        "updates. Measured: total variation distance to ref * exp(u / beta), beta 0.5.",
        judged,
        {
            "distance to the best regularised policy, soft labels": (None, 0.05),
            "distance to the best regularised policy, hard - soft": (0, None),
            "weight on the best answer, hard labels": (0.95, None),
        },
    ),
    Study(
        "dpo_ref_scale",
        "DPO's loss falls everywhere and the pairs that the reference ranks very wrongly stay wrong",
        "2,000 pairs whose reference log-ratio is heavy-tailed (Student's t, 2 degrees of freedom), a log-linear "
        "policy of 100 features, beta 0.1. c is the log-ratio by which the reference prefers the worse answer.",
        rankings,
        {
            "smallest fall of DPO's loss in a bucket of beta c": (0, None),
            "share of pairs with beta c > 3 that DPO flips": (None, 0.2),
            "share flipped, reference counted half - dpo": (0, None),
        },
    ),
)
