"""Two components in one grade: a tutor whose turns help the student, and please a rubric, in other directions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from scipy.stats import spearmanr
from torch import Tensor

from evidence.ideas.study import Study
from mmpo.batch import evidence
from mmpo.data.outcomes import graded_by_components
from mmpo.methods import build
from mmpo.types import Datum, Method, Reading

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
D, TURNS, CANDIDATES, POOL, FRESH = 8, 200, 4, 12, 1000
EPS, BETA, GAMMA = 0.1, 0.1, 5.0


@dataclass(frozen=True)
class Turns:
    """Turns of a lesson with candidates: features [N, POOL, D], and the two components in [0, 1] [N, POOL]."""

    features: Tensor
    outcome: Tensor
    rubric: Tensor

    @classmethod
    def drawn(cls, draw: torch.Generator, n: int) -> Turns:
        """The directions of the two components are 110 degrees apart."""
        x = torch.randn(n, POOL, D, generator=draw, dtype=torch.float64)
        a, b = torch.eye(D, dtype=torch.float64)[:2]
        angle = torch.tensor(110.0).deg2rad().double()
        other = angle.cos() * a + angle.sin() * b
        return cls(x, torch.sigmoid(1.5 * (x @ a)), torch.sigmoid(1.5 * (x @ other)))

    def data(self) -> list[Datum]:
        """The first candidates of each turn with their components."""
        names = tuple(f"candidate {k}" for k in range(CANDIDATES))
        each = zip(self.outcome[:, :CANDIDATES].tolist(), self.rubric[:, :CANDIDATES].tolist(), strict=True)
        return [
            Datum(str(n), f"turn {n}", names, attributes={"outcome": tuple(o), "rubric": tuple(r)})
            for n, (o, r) in enumerate(each)
        ]

    def logps(self, theta: Tensor) -> Tensor:
        """pi(y|x) proportional to exp(theta . features) over all candidates of a turn."""
        return (self.features @ theta).log_softmax(-1)


def trained(method: Method, turns: Turns, share: float, eps: float) -> Tensor:
    """The policy after 200 steps of Adam on all pairs at once; it begins uniform, which is the reference."""
    made, _ = graded_by_components(turns.data(), {"outcome": share, "rubric": 1 - share}, eps=eps)
    kept, said = torch.tensor([int(d.id) for d in made]), evidence(made)
    theta = torch.zeros(D, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([theta], 0.05)
    ref = torch.full((len(kept), CANDIDATES), 1 / POOL, dtype=torch.float64).log()
    for _ in range(200):
        adam.zero_grad()
        method(said, Reading(said.mask, turns.logps(theta)[kept, :CANDIDATES], ref)).loss.backward()
        adam.step()
    return theta.detach()


@cache
def learned(seed: int) -> tuple[Turns, dict[tuple[str, float], Tensor]]:
    """Fresh turns, and the policies of each method for each share of the outcome."""
    draw = torch.Generator().manual_seed(seed)
    turns, fresh = Turns.drawn(draw, TURNS), Turns.drawn(draw, FRESH)
    methods = {"dpo": (build("dpo", beta=BETA), EPS), "mmpo": (build("mmpo", beta=BETA, gamma=GAMMA), 0.0)}
    found = {
        (name, share): trained(method, turns, share, eps) for name, (method, eps) in methods.items() for share in SHARES
    }
    return fresh, found


def sweep(seed: int) -> dict[str, float]:
    """The mean components of each policy on fresh turns, along the share of the outcome."""
    fresh, found = learned(seed)
    numbers = {}
    for name in ("dpo", "mmpo"):
        means = {}
        for component in ("outcome", "rubric"):
            values = getattr(fresh, component)
            means[component] = [float((fresh.logps(found[name, w]).exp() * values).sum(-1).mean()) for w in SHARES]
            at = zip(SHARES, means[component], strict=True)
            numbers |= {f"{component} of {name} at {w:g}": value for w, value in at}
        steps = {component: torch.tensor(line).diff() for component, line in means.items()}
        numbers[f"smallest step of the outcome, {name}"] = float(steps["outcome"].min())
        numbers[f"largest step of the rubric, {name}"] = float(steps["rubric"].max())
    return numbers


def margins(seed: int) -> dict[str, float]:
    """Spearman's correlation of the policy's margins with those of the grade, over pairs of fresh turns."""
    fresh, found = learned(seed)
    grade = (fresh.outcome + fresh.rubric) / 2
    gap = grade[:, 0] - grade[:, 1]

    def agrees(name: str) -> float:
        logps = fresh.logps(found[name, 0.5])
        return float(spearmanr(logps[:, 0] - logps[:, 1], gap).statistic)

    return {"mmpo": agrees("mmpo"), "dpo": agrees("dpo"), "mmpo less dpo": agrees("mmpo") - agrees("dpo")}


WORLD = (
    f"{TURNS} turns with {CANDIDATES} candidates each; outcome and rubric are sigmoids of two directions of {D} "
    f"features, 110 degrees apart. A softmax policy over {POOL} candidates, linear in the features, learns by DPO from "
    f"the pairs that `mmpo build outcomes` leaves at eps {EPS:g}, and by MMPO (gamma {GAMMA:g}) from all at eps 0; "
    f"measured on {FRESH:,} fresh turns."
)

STUDIES = (
    Study(
        method="mmpo",
        claim="the more the outcome counts in the grade, the better the policy's outcome and the worse its rubric",
        about=WORLD,
        run=sweep,
        expect={"smallest step of the outcome, mmpo": (0.0, None), "largest step of the rubric, mmpo": (None, 0.0)},
    ),
    Study(
        method="dpo",
        claim="the more the outcome counts in the grade, the better the policy's outcome and the worse its rubric",
        about=WORLD,
        run=sweep,
        expect={"smallest step of the outcome, dpo": (0.0, None), "largest step of the rubric, dpo": (None, 0.0)},
    ),
    Study(
        method="mmpo",
        claim="on grades of two components its margins rank pairs more like the grades do than DPO's",
        about=WORLD + " The outcome's share is one half.",
        run=margins,
        expect={"mmpo less dpo": (0.0, None)},
    ),
)
