"""Preferences that are not a line, and rewards with a spread: GPM, GPO and PEARL in small worlds of known truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from evidence.ideas.lists import Read, fit, said
from evidence.ideas.study import Study
from mmpo.matrix import between, compared
from mmpo.methods import build
from mmpo.types import Evidence, Reading

HIDDEN = 32

Model = tuple[Read, Callable[[torch.Generator], Tensor]]
"""Parameters to a reading, and how the parameters begin."""


def voted(wins: Tensor) -> Evidence:
    """Votes [B, K, K] on every pair, and no grades."""
    none = torch.full(wins.shape[:2], math.nan)
    return replace(said(none), votes=wins)


def stated(gaps: Tensor) -> Evidence:
    """A gap [B, K, K] stated for every pair, and no grades."""
    return replace(said(torch.full(gaps.shape[:2], math.nan)), stated=gaps)


def linear(x: Tensor, outputs: int, scalar: bool = False) -> Model:
    """A linear model of [B, K, D] with so many outputs, or of one reward."""
    d = x.shape[-1]

    def read(theta: Tensor) -> Reading:
        out = x @ theta.view(d, outputs)
        there = torch.ones(x.shape[:2], dtype=torch.bool)
        return Reading(there, rewards=out.squeeze(-1)) if scalar else Reading(there, outputs=out)

    return read, lambda draw: 0.3 * torch.randn(d * outputs, generator=draw)


def network(x: Tensor, outputs: int, scalar: bool = False) -> Model:
    """The same with a hidden layer."""
    d = x.shape[-1]
    sizes = [d * HIDDEN, HIDDEN, HIDDEN * outputs]

    def read(theta: Tensor) -> Reading:
        w, b, v = theta.split(sizes)
        out = torch.tanh(x @ w.view(d, HIDDEN) + b) @ v.view(HIDDEN, outputs)
        there = torch.ones(x.shape[:2], dtype=torch.bool)
        return Reading(there, rewards=out.squeeze(-1)) if scalar else Reading(there, outputs=out)

    def start(draw: torch.Generator) -> Tensor:
        first, second = (torch.randn(n, generator=draw) for n in (sizes[0], sizes[2]))
        return torch.cat([first / math.sqrt(d), torch.zeros(HIDDEN), second / math.sqrt(HIDDEN)])

    return read, start


# ---------------------------------------------------------------------------------------------- circles

KINDS = ("a linear reward", "a network's reward", "gpm")


def around(k: int) -> Tensor:
    """[k, k] gaps of k kinds on a circle, each over those in the half turn behind it: sin of the angle between."""
    angle = 2 * math.pi * torch.arange(k) / k
    return torch.sin(angle - angle[:, None])


def circles(k: int, flips: float) -> Callable[[int], dict[str, float]]:
    def run(seed: int) -> dict[str, float]:
        draw = torch.Generator().manual_seed(seed)
        centres, beats = torch.randn(k, 16, generator=draw), (around(k) > 1e-6).float()

        def world(n: int, flips: float) -> tuple[Tensor, Tensor]:
            x = centres + 0.3 * torch.randn(n, k, 16, generator=draw)
            turned = (torch.rand(n, k, k, generator=draw) < flips).float().triu(1)
            wins = torch.where((turned + turned.mT).bool(), beats.T, beats)
            return x, wins

        (x, wins), (test, truth) = world(200, flips), world(1000, 0.0)
        found = {}
        for name, model, outputs in zip(KINDS, (linear, network, linear), (1, 1, 2), strict=True):
            scalar, method = outputs == 1, build("bradley_terry" if outputs == 1 else "gpm")
            read, start = model(x, outputs, scalar)
            theta = fit(method, voted(wins), read, start(draw))
            m = method.score(model(test, outputs, scalar)[0](theta))
            right = ((m > 0) == truth.bool())[compared(torch.ones(len(m), k, dtype=torch.bool))]
            found[f"accuracy of {name}"] = right.float().mean().item()
        return found

    return run


def gaps(seed: int) -> dict[str, float]:
    draw = torch.Generator().manual_seed(seed)
    centres, truth = torch.randn(5, 16, generator=draw), around(5)

    def world(n: int, noise: float) -> tuple[Tensor, Tensor]:
        off = noise * torch.randn(n, 5, 5, generator=draw).triu(1)
        return centres + 0.1 * torch.randn(n, 5, 16, generator=draw), truth + off - off.mT

    (x, told), (test, _) = world(200, 0.3), world(1000, 0.0)
    found = {}
    for name, outputs in (("mmpo_reward", 1), ("mmpo_gpm", 2)):
        scalar, method = outputs == 1, build(name, gamma=2.0)
        read, start = linear(x, outputs, scalar)
        theta = fit(method, stated(told), read, start(draw))
        m = method.score(linear(test, outputs, scalar)[0](theta)) / 2
        off = (m - truth)[compared(torch.ones(len(m), 5, dtype=torch.bool))]
        found[f"error of the gaps, {name}"] = off.square().mean().sqrt().item()
    return found


def gates(seed: int) -> dict[str, float]:
    """In one kind of prompt the first feature decides, in the other the second."""
    draw = torch.Generator().manual_seed(seed)

    def world(n: int) -> tuple[Tensor, Tensor, Tensor]:
        kind = torch.randint(2, (n,), generator=draw)
        y = torch.randn(n, 4, 2, generator=draw)
        x = torch.cat([y, torch.ones(n, 4, 1)], -1)
        prompt = torch.randn(n, 6, generator=draw)
        prompt[:, 0] = 2.0 * kind - 1
        return x, prompt, torch.where(kind[:, None] == 0, y[..., 0], y[..., 1])

    def reader(x: Tensor, prompt: Tensor) -> Read:
        def read(theta: Tensor) -> Reading:
            v, gate = theta.split([12, 12])
            there = torch.ones(x.shape[:2], dtype=torch.bool)
            return Reading(there, outputs=x @ v.view(3, 4), of_prompt={"gate": prompt @ gate.view(6, 2)})

        return read

    (x, prompt, grades), (test, asked, truth) = world(600), world(2000)
    found = {}
    for name in ("gpm", "gpm_gated"):
        method = build(name, dim=4)
        theta = fit(method, said(grades), reader(x, prompt), 0.3 * torch.randn(24, generator=draw))
        m = method.score(reader(test, asked)(theta))
        right = ((m > 0) == (between(truth) > 0))[compared(torch.ones(len(m), 4, dtype=torch.bool))]
        found[f"accuracy of {name}, dim 4"] = right.float().mean().item()
    return {**found, "gated less plain": found["accuracy of gpm_gated, dim 4"] - found["accuracy of gpm, dim 4"]}


# ---------------------------------------------------------------------------------------------- self-play

ROUNDS, PROMPTS, SAMPLES = 200, 64, 5


def self_play(seed: int) -> dict[str, float]:
    """Each round samples five answers to 64 prompts from the policy, grades each by its mean margin, and takes twelve
    steps of gradient descent from the policy."""
    draw = torch.Generator().manual_seed(seed)
    table, beta = torch.tensor([[0.0, 1, -1], [-1, 0, 1], [1, -1, 0]]), 2.0
    logps, mean = torch.randn(3, generator=draw).log_softmax(-1), torch.zeros(3)
    found = {"largest share at the start": logps.exp().max().item()}
    for round_ in range(ROUNDS):
        mean = mean + (logps.exp() - mean) / (1 + round_)
        drawn = torch.multinomial(logps.exp(), PROMPTS * SAMPLES, True, generator=draw).view(PROMPTS, SAMPLES)
        logps = _round(logps, drawn, table[drawn[:, :, None], drawn[:, None, :]].mean(-1), beta)
    found["lead of the best answer to the mean policy"] = (table @ mean).max().item()
    found["lead of the best answer to the last policy"] = (table @ logps.exp()).max().item()
    return {**found, "lead, mean less last": (table @ mean).max().item() - (table @ logps.exp()).max().item()}


def _round(logps: Tensor, drawn: Tensor, grades: Tensor, beta: float) -> Tensor:
    method, evidence, z = build("gpo", beta=beta), said(grades), logps.clone().requires_grad_()
    there = torch.ones_like(drawn, dtype=torch.bool)
    for _ in range(12):
        reading = Reading(there, z.log_softmax(-1)[drawn], logps[drawn])
        (slope,) = torch.autograd.grad(method(evidence, reading).loss, z)
        z = (z - slope / beta**2).detach().requires_grad_()
    return z.detach().log_softmax(-1)


# ---------------------------------------------------------------------------------------------- a spread

SPREADS = ("pearl", "gaussian_likelihood")


def spread(model: Callable[..., Model]) -> Callable[[int], dict[str, float]]:
    """Of one half of the prompts half of the labels are flipped, of the other a tenth: 30% in all."""

    def run(seed: int) -> dict[str, float]:
        draw = torch.Generator().manual_seed(seed)
        w = torch.randn(10, generator=draw)

        def world(n: int) -> tuple[Tensor, Tensor, Tensor]:
            x, noisy = torch.randn(n, 2, 10, generator=draw), torch.randint(2, (n,), generator=draw).bool()
            prompt = torch.stack([noisy.float(), torch.ones(n)], -1)[:, None].expand(n, 2, 2)
            return torch.cat([x, prompt], -1), (between(x @ w) > 0).float(), noisy

        (x, wins, noisy), (test, truth, where) = world(500), world(2000)
        flipped = torch.rand(len(x), generator=draw) < torch.where(noisy, 0.5, 0.1)
        evidence = voted(torch.where(flipped[:, None, None], wins.mT, wins))
        found = {}
        for name in (*SPREADS, "soft_bradley_terry"):
            method, scalar = build(name), name == "soft_bradley_terry"
            read, start = model(x, 1 if scalar else 2, scalar)
            theta = fit(method, evidence, read, 0.3 * start(torch.Generator().manual_seed(seed)), steps=200)
            out = model(test, 1 if scalar else 2, scalar)[0](theta)
            right = (method.score(out)[:, 0, 1] > 0) == (truth[:, 0, 1] > 0)
            found[f"accuracy of {name}"] = right.float().mean().item()
            if not scalar:
                log = method.score.watched(out)["sigma"].log().mean(-1)
                found[f"log sigma, noisy less clean, {name}"] = (log[where].mean() - log[~where].mean()).item()
        for name in SPREADS:
            lead = found[f"accuracy of {name}"] - found["accuracy of soft_bradley_terry"]
            found[f"accuracy of {name} less that of the mean alone"] = lead
        return found

    return cache(run)


_LINEAR = spread(linear)

# ---------------------------------------------------------------------------------------------- the claims

_CIRCLES = (
    "k kinds of answers on a circle, each better than the kinds in the half turn behind it, so that no order holds. "
    "An answer is the centre of its kind in 16 dimensions and noise of a third of a unit; 200 prompts have one answer "
    "of each kind. A linear reward, a network's and a linear preference model of two numbers take 300 steps of Adam on "
    "all pairs. Accuracy on the pairs of 1,000 other prompts, without flips; chance is 0.5."
)
_FLIPS = (
    "500 pairs, a linear reward of 10 features; where a feature of the prompt says so half of the labels are flipped, "
    "and a tenth elsewhere, 30% in all. 200 steps of Adam. Accuracy on 2,000 other pairs, none flipped; log sigma on "
    "noisy prompts less that on clean ones. The mean alone is soft_bradley_terry with the same model."
)

STUDIES = (
    Study(
        "gpm",
        "rock, paper and scissors are learned, where every reward stays near chance",
        f"{_CIRCLES} k = 3.",
        circles(3, 0.0),
        {"accuracy of gpm": (0.95, None)} | {f"accuracy of {name}": (0.4, 0.6) for name in KINDS[:2]},
    ),
    Study(
        "gpm",
        "so is a circle of five with a tenth of its labels flipped",
        f"{_CIRCLES} k = 5.",
        circles(5, 0.1),
        {"accuracy of gpm": (0.95, None)} | {f"accuracy of {name}": (0.4, 0.6) for name in KINDS[:2]},
    ),
    Study(
        "mmpo_gpm",
        "gaps that run in a circle are matched, which no reward can",
        "Five kinds of answers on a circle in 16 dimensions; the gap of two is the sine of the angle between them, "
        "stated for each pair with noise of 0.3. Linear models, gamma = 2, 200 prompts; root mean square error of "
        "M / gamma against the true gap on 1,000 others. Gaps of 0 would have an error of 0.79.",
        gaps,
        {"error of the gaps, mmpo_gpm": (None, 0.25), "error of the gaps, mmpo_reward": (0.7, None)},
    ),
    Study(
        "gpm_gated",
        "where another criterion decides for another kind of prompt, the gate finds it",
        "Answers have two features; in half of the prompts the first decides, in the others the second, and a feature "
        "of the prompt tells which. Vectors of four numbers are linear in the answer, and the gate in the prompt. A "
        "model that reads prompt and answer together could learn it without; this one must do without the prompt.",
        gates,
        {"accuracy of gpm_gated, dim 4": (0.95, None), "gated less plain": (0.1, None)},
    ),
    Study(
        "gpo",
        "on rock, paper and scissors self-play goes round, and the mean of its policies comes near uniform",
        f"A policy over three answers from a random start, {ROUNDS} rounds: five answers to each of {PROMPTS} prompts "
        "are drawn and graded by their mean margin among themselves (a win is 1); twelve gradient steps towards the "
        "new policy, beta = 2. Measured: by how much the best answer to a policy wins more than it loses, 0 for the "
        "uniform policy and up to 1 for a certain one.",
        self_play,
        {"lead of the best answer to the mean policy": (None, 0.2), "lead, mean less last": (None, 0.0)},
    ),
    Study(
        "pearl",
        "sigma is larger where labels are flipped, and the means order no worse than one reward does",
        _FLIPS,
        _LINEAR,
        {
            "log sigma, noisy less clean, pearl": (0.0, None),
            "accuracy of pearl less that of the mean alone": (-0.01, None),
        },
    ),
    Study(
        "gaussian_likelihood",
        "sigma is larger where labels are flipped, and the means order better than one reward does",
        _FLIPS,
        _LINEAR,
        {
            "log sigma, noisy less clean, gaussian_likelihood": (0.0, None),
            "accuracy of gaussian_likelihood less that of the mean alone": (0.0, None),
        },
    ),
    Study(
        "gaussian_likelihood",
        "the same where the model is a network that can learn single labels by heart",
        f"{_FLIPS} Networks of {HIDDEN} hidden units.",
        spread(network),
        {
            "log sigma, noisy less clean, gaussian_likelihood": (0.0, None),
            "accuracy of gaussian_likelihood less that of the mean alone": (0.0, None),
        },
    ),
)
