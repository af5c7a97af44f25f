"""Preferences in context: two users who want different things, told apart by what the prompt says, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from evidence.ideas.study import Study
from mmpo.batch import evidence
from mmpo.data.contexts import Contexts, marginal_preference
from mmpo.data.read import Numbered
from mmpo.evaluate.contexts import preference_error_bound, reversal_accuracy
from mmpo.methods import build
from mmpo.types import Datum, Judgement, Reading

USERS = ("the first user", "the second user")
D, PAIRS, FRESH = 6, 2000, 4000
WRONG = 0.2
"""Share of the contexts that are mistaken where they are inferred."""


@dataclass(frozen=True)
class World:
    """Two users with tastes w [2, D] at right angles; answers have features, and rewards are w_z . phi."""

    tastes: Tensor
    draw: torch.Generator

    @classmethod
    def of(cls, seed: int) -> World:
        draw = torch.Generator().manual_seed(seed)
        return cls(2 * torch.linalg.qr(torch.randn(D, 2, generator=draw, dtype=torch.float64))[0].T, draw)

    def anew(self, seed: int) -> World:
        """The same tastes, with draws of their own for the test."""
        return replace(self, draw=torch.Generator().manual_seed(1_000_000 + seed))

    def answers(self, n: int) -> Tensor:
        """[n, 2, D], two answers to each of n prompts."""
        return torch.randn(n, 2, D, generator=self.draw, dtype=torch.float64)

    def leads(self, answers: Tensor) -> Tensor:
        """[n, 2], by how much each user prefers the first answer."""
        return (answers[:, 0] - answers[:, 1]) @ self.tastes.T

    def rows(self, answers: Tensor, wrong: float = 0.0) -> Numbered:
        """A row for each prompt, with what both users chose; the contexts are exchanged in a share of the rows."""
        chosen = torch.rand(len(answers), 2, generator=self.draw) < torch.sigmoid(self.leads(answers))
        swapped = torch.rand(len(answers), generator=self.draw) < wrong
        for n, (first, other_way) in enumerate(zip(chosen.tolist(), swapped.tolist(), strict=True)):
            names = USERS[::-1] if other_way else USERS
            stated = [{"context": z, "preferred": int(not wins)} for z, wins in zip(names, first, strict=True)]
            yield n, {"prompt": f"prompt {n}", "responses": ["a", "b"], "contexts": stated}


def trained(answers: Tensor, rows: Numbered, *, heeds: bool) -> Tensor:
    """A linear reward for each context that a prompt may state [2, D]; one for both where it does not heed them."""
    made = [row for _, row in Contexts()(rows)]
    data = [
        Datum(row["id"], row["prompt"], ("a", "b"), judgements=(Judgement(0, 1, p=1.0 - row["preferred"]),))
        for row in made
    ]
    who = torch.tensor([heeds and USERS[1] in row["prompt"] for row in made]).long()
    phi, said = answers.repeat_interleave(2, 0), evidence(data)
    w = torch.zeros(2, D, dtype=torch.float64, requires_grad=True)
    adam, method = torch.optim.Adam([w], 0.1), build("bradley_terry")
    for _ in range(150):
        adam.zero_grad()
        method(said, Reading(said.mask, rewards=torch.einsum("nkd,nd->nk", phi, w[who]))).loss.backward()
        adam.step()
    found = w.detach()
    return found if heeds else found[:1].expand(2, -1)


@cache
def learned(seed: int) -> Mapping[str, Tensor]:
    """The rewards that are learned with the right contexts, with some wrong, and without any."""
    world = World.of(seed)
    answers = world.answers(PAIRS)
    return {
        "context": trained(answers, world.rows(answers), heeds=True),
        "inferred": trained(answers, world.rows(answers, WRONG), heeds=True),
        "pooled": trained(answers, world.rows(answers), heeds=False),
    }


def reversals(seed: int) -> dict[str, float]:
    """On fresh answers about which the two users disagree; who is to judge is told, or wrongly one time in five."""
    world, found = World.of(seed).anew(seed), learned(seed)
    answers = world.answers(FRESH)
    leads = world.leads(answers)
    apart = leads.prod(-1) < 0
    sign, told = leads[apart, 0].sign(), torch.rand(int(apart.sum()), generator=world.draw) < WRONG
    gap = sign[:, None] * (answers[apart, 0] - answers[apart, 1])  # the first user prefers it

    def accuracy(name: str, wrong: Tensor | None = None) -> float:
        m = gap @ found[name].T
        given = m if wrong is None else torch.where(wrong[:, None], m.flip(-1), m)
        return reversal_accuracy(given[:, 0], given[:, 1])

    return {
        "smaller cosine to a user": float(cosine_similarity(found["context"], world.tastes).min()),
        "cosine of the pooled model to w_1 + w_2": float(
            cosine_similarity(found["pooled"][0], world.tastes.sum(0), dim=0)
        ),
        "reversals right with the context": accuracy("context"),
        "reversals right when pooled": accuracy("pooled"),
        "with the context less pooled": accuracy("context") - accuracy("pooled"),
        "reversals right, a fifth of the contexts wrong": accuracy("inferred", told),
        "a fifth wrong less pooled": accuracy("inferred", told) - accuracy("pooled"),
    }


def bound(seed: int) -> dict[str, float]:
    """The preference of a population in which the first user is drawn with probability 0.7, and inferred with 0.5."""
    world, found = World.of(seed).anew(seed), learned(seed)
    answers = world.answers(FRESH)
    p, p_hat = (0.7, 0.3), (0.5, 0.5)
    gap = answers[:, 0] - answers[:, 1]
    q, q_hat = torch.sigmoid(world.leads(answers)), torch.sigmoid(gap @ found["inferred"].T)
    errors = [abs(marginal_preference(p, a) - marginal_preference(p_hat, b)) for a, b in zip(q, q_hat, strict=True)]
    bounds = [preference_error_bound(p, a, p_hat, b) for a, b in zip(q, q_hat, strict=True)]
    return {
        "share of pairs within the bound": sum(e <= b for e, b in zip(errors, bounds, strict=True)) / FRESH,
        "mean error": sum(errors) / FRESH,
        "mean bound": sum(bounds) / FRESH,
    }


WORLD = (
    f"Two users with tastes at right angles in {D} dimensions choose between two answers to each of {PAIRS:,} prompts. "
    "`mmpo build contexts` makes the rows, and a linear reward model with a direction for each context learns from "
    f"them; pooled, it has one direction. Tested on those of {FRESH:,} fresh pairs on which the users disagree."
)

STUDIES = (
    Study(
        method="bradley_terry",
        claim="rewards that read the context recover two users who disagree, and without it their sum",
        about=WORLD,
        run=reversals,
        expect={
            "smaller cosine to a user": (0.95, None),
            "cosine of the pooled model to w_1 + w_2": (0.95, None),
            "reversals right with the context": (0.9, None),
            "reversals right when pooled": (0.5, 0.5),
            "with the context less pooled": (0.0, None),
        },
    ),
    Study(
        method="bradley_terry",
        claim="a context that is wrong one time in five, in training and in the test, is still better than none",
        about=WORLD,
        run=reversals,
        expect={"a fifth wrong less pooled": (0.0, None)},
    ),
    Study(
        method="bradley_terry",
        claim="the error of a population's preference stays within that of the judge and that of the contexts",
        about=WORLD
        + " The judge learned with a fifth of the contexts wrong; the shares of the users are 0.7 and 0.3, and "
        "are taken for halves.",
        run=bound,
        expect={"share of pairs within the bound": (1.0, 1.0)},
    ),
)
