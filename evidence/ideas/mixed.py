"""Several data sets at once, and several attributes that a prompt weighs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from evidence.ideas.noisy import chosen, direction, normal
from evidence.ideas.study import Study
from mmpo.evaluate import ece
from mmpo.matrix import between, compared
from mmpo.methods import build
from mmpo.types import Evidence, Method, Reading, Voices

# ---------------------------------------------------------------------------------------------- data sets

SETS, D, PAIRS, STEPS, BATCH = 3, 20, 2000, 400, 32
APART = 1.5
"""How much of each data set's taste is its own, where the shared one has length 1."""


@dataclass(frozen=True)
class Sets:
    """What features x [SETS, N, 2, D] of pairs lead the first to win [SETS, N], by tastes that share a direction [D];
    the loss of a pair counts ``weight`` [SETS] times."""

    shared: Tensor
    x: Tensor
    first: Tensor
    weight: Tensor

    @classmethod
    def random(cls, seed: int, weight: tuple[float, ...], flipped: tuple[float, ...], own: tuple[int, ...]) -> Sets:
        """``own`` numbers the direction that each data set adds to the shared one."""
        rng = torch.Generator().manual_seed(seed)
        shared = direction(rng, D, 1.0)
        added = torch.stack([direction(rng, D, APART) for _ in range(SETS)])[list(own)]
        x = normal(rng, SETS, PAIRS, 2, D)
        first = chosen(rng, torch.einsum("snd,sd->sn", x[:, :, 0] - x[:, :, 1], shared + added))
        wrong = torch.rand(first.shape, generator=rng) < torch.tensor(flipped)[:, None]
        return cls(shared, x, first ^ wrong, torch.tensor(weight).double())

    def batch(self, rng: torch.Generator) -> tuple[Evidence, Tensor]:
        """So many pairs of each, and their features [SETS * BATCH, 2, D]."""
        at = torch.randint(PAIRS, (SETS, BATCH), generator=rng)
        sets = torch.arange(SETS)[:, None]
        first = self.first[sets, at].flatten()
        quality = torch.stack((first, ~first), -1).double()
        mask = torch.ones_like(quality, dtype=torch.bool)
        weight = compared(mask) * self.weight.repeat_interleave(BATCH)[:, None, None]
        who, nothing = 1 + sets.expand_as(at).reshape(-1, 1), torch.full_like(weight, torch.nan)
        voices = Voices(who, quality[:, None], 0 * weight[:, None], nothing[:, None], weight[:, None])
        said = Evidence(mask, quality, nothing, torch.zeros_like(weight), weight, voices)
        return said, self.x[sets, at].flatten(0, 1)

    def head(self, method: Method, seed: int) -> Tensor:
        """The weight [D] of a linear reward that a method learns."""
        rng = torch.Generator().manual_seed(seed)
        head, memory = torch.zeros(D, dtype=torch.float64, requires_grad=True), method.memory(1 + SETS)
        optimizer = torch.optim.Adam([head], lr=0.02)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
        for _ in range(STEPS):
            said, x = self.batch(rng)
            said, reading = replace(said, memory=memory), Reading(said.mask, rewards=x @ head, features=x)
            optimizer.zero_grad()
            method(said, reading).loss.backward()
            optimizer.step()
            schedule.step()
            memory = method.remember(memory, method.observe(said, reading))
        return head.detach()

    def measured(self, head: Tensor, seed: int) -> tuple[float, float]:
        """The cosine with the shared taste, and the ECE on 20,000 pairs that it alone labels."""
        rng = torch.Generator().manual_seed(seed + 1)
        gap = normal(rng, 20_000, D) * 2**0.5
        first = chosen(rng, gap @ self.shared).double()
        return float(torch.cosine_similarity(head, self.shared, dim=0)), ece(first.numpy(), (gap @ head).numpy())


@cache
def of_sets(
    seed: int,
    weight: tuple[float, ...] = (1.0, 1.0, 1.0),
    flipped: tuple[float, ...] = (0.0, 0.0, 0.0),
    own: tuple[int, ...] = (0, 1, 2),
) -> Mapping[str, float]:
    world = Sets.random(seed, weight, flipped, own)
    tried = (build("more"), build("more", level=1.0), build("bradley_terry"))
    more, level, all_alike = (world.measured(world.head(method, seed), seed) for method in tried)
    return {
        "MORE: cosine with the shared taste": more[0],
        "all pairs alike: cosine": all_alike[0],
        "cosine, MORE - all pairs alike": more[0] - all_alike[0],
        "cosine, MORE of level 1 - all pairs alike": level[0] - all_alike[0],
        "ECE on shared pairs, MORE - all pairs alike": more[1] - all_alike[1],
        "ECE on shared pairs, MORE of level 1 - all pairs alike": level[1] - all_alike[1],
    }


_SETS = (
    f"Three data sets of {PAIRS:,} pairs in {D} dimensions, labelled by Bradley-Terry with the taste w + {APART:g} v_i:"
    " w is shared, the v_i are drawn at random, w and v_i have length 1. A linear reward,"
    f" {STEPS} steps of Adam on {BATCH} pairs of each. Level 0 is the paper's, which applies its weights to the losses"
    " as they are; level 1 divides each by the length of its gradient first. Measured: the cosine of the weight of the"
    " reward with w, and the ECE on pairs that w alone labels."
)

# ---------------------------------------------------------------------------------------------- attributes

TYPES, PROMPTS, K, WIDE = 2, 600, 4, 6
FIXED = torch.linspace(0, 1, 21, dtype=torch.float64)


@dataclass(frozen=True)
class Criteria:
    """Prompts of two kinds [N], seen as c [N, 4]; answers x [N, K, WIDE], graded on two attributes [N, K, 2]; and how
    good each is, [N, K]."""

    kind: Tensor
    c: Tensor
    x: Tensor
    grades: Tensor
    worth: Tensor

    @classmethod
    def random(cls, rng: torch.Generator, taste: Tensor, mix: Tensor, n: int) -> Criteria:
        """``taste`` [2, WIDE] makes grades of features, and ``mix`` [kinds, 2] what each kind of prompt wants."""
        kind = torch.randint(TYPES, (n,), generator=rng)
        c = torch.cat((torch.eye(TYPES).double()[kind], normal(rng, n, 2)), -1) + 0.1 * normal(rng, n, 4)
        x = normal(rng, n, K, WIDE)
        grades = x @ taste.T
        return cls(kind, c, x, grades, (grades * mix[kind][:, None]).sum(-1))

    @property
    def evidence(self) -> Evidence:
        mask = torch.ones_like(self.worth, dtype=torch.bool)
        weight = compared(mask).double()
        nothing = torch.full_like(weight, torch.nan)
        who = torch.arange(1, 3).expand(len(self.kind), 2)
        quality, each = self.grades.mT, torch.stack((weight, weight), 1) / 2
        voices = Voices(who, quality, 0 * each, torch.stack((nothing, nothing), 1), each)
        return Evidence(mask, self.worth, nothing, torch.zeros_like(weight), weight, voices)

    def reading(self, outputs: Tensor, router: Tensor) -> Reading:
        return Reading(
            torch.ones_like(self.worth, dtype=torch.bool),
            outputs=self.x @ outputs,
            of_prompt={"router": self.c @ router},
        )

    def accuracy(self, rewards: Tensor) -> float:
        """The share of pairs in the right order."""
        lead, said = between(self.worth), between(rewards)
        return float((said.sign() == lead.sign())[lead != 0].double().mean())


@cache
def of_prompts(seed: int, mix: tuple[tuple[float, float], ...], name: str = "orchestrator") -> Mapping[str, float]:
    rng = torch.Generator().manual_seed(seed)
    taste = torch.linalg.qr(normal(rng, WIDE, 2))[0].mT
    wanted = torch.tensor(mix, dtype=torch.float64)
    train, test = (Criteria.random(rng, taste, wanted, n) for n in (PROMPTS, 4000))
    outputs, router = normal(rng, WIDE, 2) / 10, torch.zeros(4, 2, dtype=torch.float64)
    weights = [outputs.requires_grad_(), router.requires_grad_()]
    optimizer, method = torch.optim.Adam(weights, lr=0.05), build(name)
    for _ in range(200):
        optimizer.zero_grad()
        method(train.evidence, train.reading(outputs, router)).loss.backward()
        optimizer.step()
    with torch.no_grad():
        reading = test.reading(outputs, router)
        found = test.accuracy(method.score.rewards(reading))
        said = reading.require("outputs")
        fixed = [test.accuracy(said @ torch.stack((w, 1 - w))) for w in FIXED]
        g = reading.of_prompt["router"].softmax(-1)[:, 0]
    return {
        f"{name}: accuracy": found,
        "best of 21 fixed weightings: accuracy": float(np.max(fixed)),
        f"accuracy, {name} - best fixed": found - float(np.max(fixed)),
        "mean weight of attribute 1, prompts of kind 1": float(g[test.kind == 0].mean()),
        "mean weight of attribute 1, prompts of kind 2": float(g[test.kind == 1].mean()),
    }


_PROMPTS = (
    f"{PROMPTS} prompts of two kinds, which four numbers tell apart; four answers each with {WIDE} features, of which"
    " two independent attributes are linear. Outputs and router are linear and learn from the attributes' grades and"
    " from which answer is preferred. Measured on 4,000 fresh prompts: pairs in the right order; the fixed weighting is"
    " the best of 21 on those very prompts."
)

STUDIES = (
    Study(
        "more",
        "where the loss of one data set counts ten times, it stays nearer to the shared taste than all pairs alike",
        _SETS + " The first data set's pairs weigh ten times as much.",
        lambda seed: of_sets(seed, weight=(10.0, 1.0, 1.0)),
        {"cosine, MORE - all pairs alike": (0.0, None), "ECE on shared pairs, MORE - all pairs alike": (None, 0.0)},
    ),
    Study(
        "more",
        "with level 1 and the loss of one data set ten times as large, it stays nearer to the shared taste",
        _SETS + " The first data set's pairs weigh ten times as much.",
        lambda seed: of_sets(seed, weight=(10.0, 1.0, 1.0)),
        {
            "cosine, MORE of level 1 - all pairs alike": (0.0, None),
            "ECE on shared pairs, MORE of level 1 - all pairs alike": (None, 0.0),
        },
    ),
    Study(
        "more",
        "where one data set has 30% of its labels flipped, it stays at least as near to the shared taste",
        _SETS + " Of the third data set's labels 30% are flipped.",
        lambda seed: of_sets(seed, flipped=(0.0, 0.0, 0.3)),
        {"cosine, MORE - all pairs alike": (0.0, None)},
    ),
    Study(
        "more",
        "where data sets are alike in size and noise, nothing is gained or lost",
        _SETS,
        lambda seed: of_sets(seed),
        {"cosine, MORE - all pairs alike": (-0.01, 0.01)},
    ),
    Study(
        "more",
        "where two data sets have one taste and the third another, it stays nearer to what all share",
        _SETS + " The first two have the same v.",
        lambda seed: of_sets(seed, own=(0, 0, 2)),
        {"cosine, MORE - all pairs alike": (0.0, None)},
    ),
    Study(
        "orchestrator",
        "where kinds of prompts want different attributes, it is more accurate than any fixed weighting",
        _PROMPTS + " Prompts of kind 1 want attribute 1 alone, those of kind 2 attribute 2.",
        lambda seed: of_prompts(seed, ((1.0, 0.0), (0.0, 1.0))),
        {"accuracy, orchestrator - best fixed": (0.0, None)},
    ),
    Study(
        "orchestrator",
        "where both kinds want both attributes alike, it equals the best fixed weighting within two points",
        _PROMPTS + " All prompts want the sum of both.",
        lambda seed: of_prompts(seed, ((0.5, 0.5), (0.5, 0.5))),
        {"accuracy, orchestrator - best fixed": (-0.02, 0.02)},
    ),
    Study(
        "orchestrator",
        "where both kinds want one attribute alone, it equals the best fixed weighting within two points",
        _PROMPTS + " All prompts want attribute 1.",
        lambda seed: of_prompts(seed, ((1.0, 0.0), (1.0, 0.0))),
        {"accuracy, orchestrator - best fixed": (-0.02, 0.02)},
    ),
    Study(
        "mmpo_orchestrator",
        "where kinds of prompts want different attributes, it is more accurate than any fixed weighting",
        _PROMPTS + " Prompts of kind 1 want attribute 1 alone, those of kind 2 attribute 2.",
        lambda seed: of_prompts(seed, ((1.0, 0.0), (0.0, 1.0)), "mmpo_orchestrator"),
        {"accuracy, mmpo_orchestrator - best fixed": (0.0, None)},
    ),
    Study(
        "mmpo_orchestrator",
        "where both kinds want one attribute alone, it equals the best fixed weighting within two points",
        _PROMPTS + " All prompts want attribute 1.",
        lambda seed: of_prompts(seed, ((1.0, 0.0), (1.0, 0.0)), "mmpo_orchestrator"),
        {"accuracy, mmpo_orchestrator - best fixed": (-0.02, 0.02)},
    ),
    Study(
        "mmpo_orchestrator",
        "where both kinds want both attributes alike, it equals the best fixed weighting within two points",
        _PROMPTS + " All prompts want the sum of both.",
        lambda seed: of_prompts(seed, ((0.5, 0.5), (0.5, 0.5)), "mmpo_orchestrator"),
        {"accuracy, mmpo_orchestrator - best fixed": (-0.02, 0.02)},
    ),
)
