"""People with tastes of their own: hidden groups, new people, prompts that ask for other things, graded tastes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn.functional import softplus

from evidence.ideas.noisy import labelled, normal
from evidence.ideas.study import Study
from mmpo.matrix import between
from mmpo.methods import build
from mmpo.placing import Labels, fitted
from mmpo.scores.people import PEOPLE, person_weights
from mmpo.targets import Hard
from mmpo.types import Evidence, Method, Reading

Learned = Mapping[str, Tensor]
"""``theta`` [F, D], a linear model of D outputs, ``g`` [C, ...], linear heads on the prompt, and tables."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of answers: features x [N, 2, F] and prompts c [N, C], who [N] from 1 compares them, and what they are
    worth to that person, rewards [N, 2]."""

    x: Tensor
    c: Tensor
    who: Tensor
    rewards: Tensor

    @property
    def first(self) -> Tensor:
        """Whether the first answer is the better one, [N]."""
        return self.rewards[:, 0] > self.rewards[:, 1]

    @property
    def labels(self) -> Evidence:
        return labelled(self.first, self.who)

    @property
    def grades(self) -> Evidence:
        """The same people, who say how much better."""
        said = labelled(self.first, self.who)
        assert said.voices is not None
        return replace(said, quality=self.rewards, voices=replace(said.voices, quality=self.rewards[:, None]))


@dataclass(frozen=True)
class World:
    """People of a few groups. Each group has an ideal on a circle, and likes best what is near to it; answers lie
    around its centre, in a plane of the space of their features.

    Attributes:
        group: [people + 1] of each person, by number.
        ideals: [groups, 2].
        plane: [F, 2].
    """

    group: Tensor
    ideals: Tensor
    plane: Tensor

    @classmethod
    def of(cls, rng: torch.Generator, groups: int, people: int = 30, radius: float = 3.0, features: int = 8) -> World:
        angle = 2 * math.pi * torch.arange(groups, dtype=torch.float64) / groups
        ideals = radius * torch.stack((angle.cos(), angle.sin()), -1)
        plane = torch.linalg.qr(normal(rng, features, features))[0][:, :2]
        return cls(torch.arange(people + 1) % groups, ideals, plane)

    def ask(self, rng: torch.Generator, who: Tensor) -> Pairs:
        """A pair for each of these people, [N]."""
        x = normal(rng, len(who), 2, len(self.plane))
        far = (x @ self.plane - self.ideals[self.group[who]][:, None]).square().sum(-1)
        return Pairs(x, torch.ones(len(who), 1, dtype=torch.float64), who, -far)


def each_of(people: int, n: int) -> Tensor:
    """The people from 1, ``n`` times each."""
    return torch.arange(1, people + 1).repeat_interleave(n)


def reading(learned: Learned, pairs: Pairs) -> Reading:
    """What a model says of pairs, from anybody's view."""
    return Reading(
        torch.ones(pairs.x.shape[:2], dtype=torch.bool),
        outputs=pairs.x @ learned["theta"],
        of_prompt={"prototypes": pairs.c @ learned["g"]} if "g" in learned else {},
        tables={name: value for name, value in learned.items() if name not in ("theta", "g")},
    )


def learn(
    method: Method, evidence: Evidence, pairs: Pairs, rng: torch.Generator, steps: int = 250, rate: float = 0.08
) -> Learned:
    """Adam on all pairs at once, with a learning rate that falls to zero."""
    voices = int(pairs.who.max()) + 1
    found = {"theta": 0.1 * normal(rng, pairs.x.shape[-1], method.score.outputs(voices))}
    if heads := sum(method.on_prompt(voices).values()):
        found["g"] = normal(rng, pairs.c.shape[-1], heads)
    tables = method.tables(voices).items()
    found |= {name: normal(rng, *shape) if shape else torch.zeros(()).double() for name, shape in tables}
    found = {name: value.requires_grad_() for name, value in found.items()}
    optimizer = torch.optim.Adam(found.values(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        method(evidence, reading(found, pairs)).loss.backward()
        optimizer.step()
        schedule.step()
    return {name: value.detach() for name, value in found.items()}


def margins(method: Method, learned: Learned, pairs: Pairs, who: Tensor | None) -> Tensor:
    """[N] margins of the first answer, in the view of these people, or in anybody's."""
    return method.score(replace(reading(learned, pairs), who=who))[:, 0, 1]


def right(method: Method, learned: Learned, pairs: Pairs, who: Tensor | None) -> Tensor:
    """[N] 1 where the model finds the better answer."""
    return ((margins(method, learned, pairs, who) > 0) == pairs.first).double()


def groups_found(learned: Learned, group: Tensor, groups: int) -> float:
    """The adjusted Rand index of clusters of people's weights with the true groups."""
    weights = person_weights(learned[PEOPLE], torch.arange(1, len(group))).numpy()
    found = KMeans(groups, n_init=10, random_state=0).fit_predict(weights)
    return float(adjusted_rand_score(group[1:].numpy(), found))


def placed(method: Method, learned: Learned, said: Evidence, pairs: Pairs, new: int) -> Learned:
    """What was learned, with rows of ``new`` people behind the others, placed by what they said of pairs."""
    own = replace(reading(learned, pairs), who=pairs.who)
    rows = fitted(method.score, [Labels(said, own, method.target.said(said))], [PEOPLE], new)
    return {**learned, PEOPLE: torch.cat([learned[PEOPLE], rows[PEOPLE]])}


# ---------------------------------------------------------------------------------------------- hidden groups


def hidden(seed: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    out: dict[str, float] = {}
    for groups, name in ((2, "two groups"), (5, "five groups")):
        world = World.of(rng, groups)
        asked, held_out = world.ask(rng, each_of(30, 40)), world.ask(rng, each_of(30, 100))
        worst = {}
        for prototypes in (1, groups):
            method = build("pal_a", prototypes=prototypes, dim=4)
            learned = learn(method, asked.labels, asked, rng)
            hit = right(method, learned, held_out, held_out.who)
            worst[prototypes] = min(float(hit[world.group[held_out.who] == g].mean()) for g in range(groups))
        out |= {
            f"{name}: adjusted Rand index": groups_found(learned, world.group, groups),
            f"{name}: accuracy in the worst group": worst[groups],
            f"{name}: accuracy in the worst group, one reward": worst[1],
            f"{name}: the difference": worst[groups] - worst[1],
        }
    return out


# ---------------------------------------------------------------------------------------------- new people


def newcomers(seed: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    old, new, shots = 30, 30, (5, 10, 20, 400)
    world = World.of(rng, 3, people=old + new)
    asked = world.ask(rng, each_of(old, 40))
    method = build("pal_a", prototypes=3, dim=4)
    learned = learn(method, asked.labels, asked, rng)
    held_out = world.ask(rng, old + each_of(new, 100))
    accuracy = {0: float(right(method, learned, held_out, None).mean())}
    for n in shots:
        few = world.ask(rng, old + each_of(new, n))
        accuracy[n] = float(right(method, placed(method, learned, few.labels, few, new), held_out, held_out.who).mean())
    return {
        "accuracy in anybody's view, without a label": accuracy[0],
        **{f"accuracy with {n} labels": accuracy[n] for n in shots},
        "20 labels - anybody's view": accuracy[20] - accuracy[0],
        "400 labels - 20 labels": accuracy[400] - accuracy[20],
    }


# ---------------------------------------------------------------------------------------------- prompts


def by_prompt(seed: int) -> dict[str, float]:
    """Each of three groups wants a direction that is linear in the prompt."""
    rng = torch.Generator().manual_seed(seed)
    groups, people, features, prompt = 3, 30, 6, 4
    wants, group = normal(rng, groups, prompt, features), torch.arange(people + 1) % groups

    def ask(who: Tensor) -> Pairs:
        x, c = normal(rng, len(who), 2, features), normal(rng, len(who), prompt)
        wanted = torch.einsum("nc,ncf->nf", c, wants[group[who]])
        return Pairs(x, c, who, (x / x.norm(dim=-1, keepdim=True) * wanted[:, None]).sum(-1))

    asked, held_out = ask(each_of(people, 80)), ask(each_of(people, 100))
    accuracy = {}
    for name, prototypes in (("pal_b", groups), ("pal_b", 1), ("pal_a", groups)):
        method = build(name, prototypes=prototypes, dim=features)
        learned = learn(method, asked.labels, asked, rng)
        accuracy[name, prototypes] = float(right(method, learned, held_out, held_out.who).mean())
    return {
        "accuracy, pal_b": accuracy["pal_b", groups],
        "accuracy, pal_b with one prototype": accuracy["pal_b", 1],
        "accuracy, pal_a": accuracy["pal_a", groups],
        "pal_b - one prototype": accuracy["pal_b", groups] - accuracy["pal_b", 1],
        "pal_b - pal_a": accuracy["pal_b", groups] - accuracy["pal_a", groups],
    }


# ---------------------------------------------------------------------------------------------- graded tastes


def graded(seed: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    gamma, world = 0.3, World.of(rng, 3)
    asked, held_out = world.ask(rng, each_of(30, 40)), world.ask(rng, each_of(30, 100))
    p = torch.sigmoid(gamma * between(held_out.rewards)[:, 0, 1])
    found = {}
    three, one = (build("mmpo_pal", gamma=gamma, prototypes=n, dim=4) for n in (3, 1))
    for name, method, said in (
        ("mmpo_pal", three, asked.grades),
        ("labels", replace(three, target=Hard()), asked.labels),
        ("one prototype", one, asked.grades),
    ):
        m = margins(method, learn(method, said, asked, rng), held_out, held_out.who)
        found[name] = float((softplus(m) - p * m + p * p.log() + (1 - p) * (1 - p).log()).mean())
    return {
        "nats from the true probabilities, mmpo_pal": found["mmpo_pal"],
        "nats more on bare labels": found["labels"] - found["mmpo_pal"],
        "nats more with one prototype": found["one prototype"] - found["mmpo_pal"],
    }


def graded_newcomers(seed: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(seed)
    old, new, shots = 30, 30, 5
    world = World.of(rng, 3, people=old + new)
    asked, few = world.ask(rng, each_of(old, 40)), world.ask(rng, old + each_of(new, shots))
    held_out = world.ask(rng, old + each_of(new, 100))
    accuracy = []
    for method, known, told in (
        (build("mmpo_pal", gamma=0.3, prototypes=3, dim=4), asked.grades, few.grades),
        (build("pal_a", prototypes=3, dim=4), asked.labels, few.labels),
    ):
        learned = placed(method, learn(method, known, asked, rng), told, few, new)
        accuracy.append(float(right(method, learned, held_out, held_out.who).mean()))
    return {
        f"accuracy with {shots} graded pairs, mmpo_pal": accuracy[0],
        f"accuracy with {shots} bare labels, pal_a": accuracy[1],
        "the difference": accuracy[0] - accuracy[1],
    }


_CIRCLE = (
    "30 people of {groups}, each of which likes best what is near to an ideal on a circle of radius 3; answers are "
    "normal around its centre, in a plane of 8 dimensions. A linear model of 4 outputs learns from 40 labels of each. "
)

STUDIES = (
    Study(
        "pal_a",
        "Hidden groups are found, and their worst is served as no single reward can",
        _CIRCLE.format(groups="two or five groups")
        + "Groups are found by k-means on people's weights; one reward is the same method with one prototype.",
        hidden,
        {
            "two groups: adjusted Rand index": (0.9, None),
            "five groups: adjusted Rand index": (0.9, None),
            "two groups: the difference": (0.3, None),
            "five groups: the difference": (0.3, None),
        },
    ),
    Study(
        "pal_a",
        "A new person is placed by 20 labels to within 4 points of full data",
        _CIRCLE.format(groups="three groups")
        + "Then 30 new people are placed as `mmpo adapt` does it, the model and the prototypes frozen, and measured on "
        "100 other pairs of each. Full data are 400 labels.",
        newcomers,
        {"20 labels - anybody's view": (0.3, None), "400 labels - 20 labels": (None, 0.04)},
    ),
    Study(
        "pal_b",
        "Tastes that ask for other things from prompt to prompt are told apart",
        "30 people of three groups, each of which wants a direction that is linear in the prompt (4 dimensions); "
        "answers have 6, and 80 labels of each person teach a linear model of 6 outputs and heads on the prompt.",
        by_prompt,
        {"pal_b - one prototype": (0.15, None), "pal_b - pal_a": (0.3, None)},
        seeds=6,
    ),
    Study(
        "mmpo_pal",
        "What each person graded becomes probabilities that are right",
        _CIRCLE.format(groups="three groups")
        + "People grade both answers by their squared distance, and prefer with probability sigmoid(0.3 gap); measured "
        "is the Kullback-Leibler divergence from there on other pairs of theirs.",
        graded,
        {
            "nats from the true probabilities, mmpo_pal": (None, 0.01),
            "nats more on bare labels": (0.1, None),
            "nats more with one prototype": (0.1, None),
        },
    ),
    Study(
        "mmpo_pal",
        "A few graded pairs place a new person better than as many bare labels",
        _CIRCLE.format(groups="three groups")
        + "Then 30 new people say of 5 pairs which answer is better (`pal_a`), or by how much (`mmpo_pal`, as it was "
        "trained), and are measured on 100 other pairs of each. Neither grades nor labels have errors.",
        graded_newcomers,
        {"the difference": (0.03, None)},
    ),
)
