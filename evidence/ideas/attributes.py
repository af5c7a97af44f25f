"""Several attributes: outputs for each, stated strengths, SteerLM 2.0, and policies that are asked for a weighting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from evidence.ideas.study import Study
from mmpo.batch import evidence
from mmpo.batch.statements import Vocabulary
from mmpo.data.attributes import weighted_sum
from mmpo.data.weighted import add_weights
from mmpo.matrix import compared
from mmpo.methods import build
from mmpo.types import Datum, Evidence, Method, Reading

# ---------------------------------------------------------------------------------------------- a linear world

NAMES = ("brevity", "depth", "truth")
PROMPTS, K, D, STEPS, RATE = 200, 4, 8, 150, 0.1
STEERED = 200  # steps of a policy


def fit(method: Method, said: Evidence, x: Tensor, outputs: int) -> Tensor:
    """Weights [D + 1, outputs] of a linear reward model after full-batch steps of Adam."""
    theta = torch.zeros(x.shape[-1], outputs, requires_grad=True)
    adam = torch.optim.Adam([theta], RATE)
    for _ in range(STEPS):
        adam.zero_grad()
        r = x @ theta
        method(
            said, Reading(said.mask, outputs=r) if outputs > 1 else Reading(said.mask, rewards=r[..., 0])
        ).loss.backward()
        adam.step()
    return theta.detach()


def answers(n: int, truth: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features with a constant [n, K, D + 1], and the true attributes [n, K, 3]."""
    x = torch.randn(n, K, D, generator=draw)
    return torch.cat([x, torch.ones(n, K, 1)], -1), x @ truth


def graded(q: Tensor, missing: float, draw: torch.Generator) -> list[Datum]:
    """Data of attributes [n, K, 3], each absent from a share of the prompts; the grade is their mean."""
    gone = torch.rand(len(q), 3, generator=draw) < missing
    gone[torch.arange(len(q)), torch.randint(3, (len(q),), generator=draw)] = False
    out = []
    for n, rows in enumerate(q.tolist()):
        lines = {name: tuple(row[a] for row in rows) for a, name in enumerate(NAMES) if not gone[n, a]}
        mean = tuple(sum(row) / 3 for row in rows)
        out.append(Datum(str(n), "Q?", tuple(f"{n}/{i}" for i in range(K)), mean, attributes=lines))
    return out


def accuracy(said: Tensor, true: Tensor) -> float:
    """The share of pairs [n, K] that are ordered as they should be."""
    pairs = (said[:, :, None] - said[:, None, :]) * (true[:, :, None] - true[:, None, :])
    return (pairs[:, *torch.triu_indices(K, K, 1)] > 0).float().mean().item()


def weightings(draw: torch.Generator) -> Tensor:
    """Four weightings [4, 3] of any sign."""
    return torch.randn(4, 3, generator=draw)


@cache
def heads(seed: int, level: float, missing: float) -> dict[str, float]:
    """Accuracy on unseen answers, mean over weightings that were drawn after training."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.randn(D, 3, generator=draw) / math.sqrt(D)
    x, true = answers(PROMPTS, truth, draw)
    q = true + 0.5 * torch.randn(true.shape, generator=draw) + level * torch.randn(PROMPTS, 1, 3, generator=draw)
    data = graded(q, missing, draw)
    voices = Vocabulary.of("attributes", data)
    unseen, wanted = answers(1000, truth, draw)
    found = {name: unseen @ fit(build(name), evidence(data, voices), x, 3) for name in ("mmpo_voices", "helpsteer2")}
    single = (unseen @ fit(build("mmpo_reward"), evidence(data), x, 1))[..., 0]
    told: dict[str, list[float]] = {name: [] for name in (*found, "one reward", "its own reward")}
    for w in weightings(draw):
        goal = wanted @ w
        for name, outputs in found.items():
            told[name].append(accuracy(outputs @ w, goal))
        told["one reward"].append(accuracy(single, goal))
        if not missing and not level:
            named = dict(zip(NAMES, w.tolist(), strict=True))
            own = [Datum(d.id, d.prompt, d.responses, weighted_sum(d.attributes, named)) for d in data]
            told["its own reward"].append(
                accuracy((unseen @ fit(build("mmpo_reward"), evidence(own), x, 1))[..., 0], goal)
            )
    mean = {f"accuracy of {name}": sum(values) / len(values) for name, values in told.items() if values}
    off = (found["helpsteer2"] - wanted).square().mean().sqrt().item()
    return {**mean, "error of helpsteer2's outputs": off, "spread of the attributes": wanted.std().item()}


def chosen_later(seed: int) -> dict[str, float]:
    found = heads(seed, 0.0, 0.0)
    ours = found["accuracy of mmpo_voices"]
    return {
        **found,
        "lead over one reward": ours - found["accuracy of one reward"],
        "lead over a reward of the weighting": ours - found["accuracy of its own reward"],
    }


def read_on_the_scale(seed: int) -> dict[str, float]:
    found = heads(seed, 0.0, 0.0)
    return {
        **found,
        "error in units of the spread": found["error of helpsteer2's outputs"] / found["spread of the attributes"],
        "lead over a reward of the weighting": found["accuracy of helpsteer2"] - found["accuracy of its own reward"],
    }


def on_moving_levels(seed: int) -> dict[str, float]:
    found = heads(seed, 3.0, 0.0)
    return {**found, "lead of differences": found["accuracy of mmpo_voices"] - found["accuracy of helpsteer2"]}


def half_missing(seed: int) -> dict[str, float]:
    whole, found = heads(seed, 0.0, 0.0), heads(seed, 0.0, 0.5)
    lost = whole["accuracy of helpsteer2"] - found["accuracy of helpsteer2"]
    return {"accuracy with all grades": whole["accuracy of helpsteer2"], "lost with half of them": lost}


LINEAR = (
    f"Three attributes are linear in {D} features of an answer; {PROMPTS} prompts with {K} answers each are graded on "
    "all three, with noise of half a standard deviation. Linear reward models. Measured: accuracy on unseen answers "
    "under four weightings of any sign that are drawn after training."
)

# ---------------------------------------------------------------------------------------------- stated strengths


def strengths(reliable: bool) -> Callable[[int], dict[str, float]]:
    """Pairs with a strength 1 to 3 by the size of the true gap; labels err most at strength 1, or alike."""

    def run(seed: int) -> dict[str, float]:
        draw = torch.Generator().manual_seed(seed)
        truth = torch.randn(D, 1, generator=draw)
        x = torch.randn(600, 2, D, generator=draw)
        gap = ((x[:, 0] - x[:, 1]) @ truth)[:, 0]
        strength = 1 + (gap.abs()[:, None] > gap.abs().quantile(torch.tensor([1 / 3, 2 / 3]))).sum(-1)
        errs = torch.tensor([0.4, 0.2, 0.05])[strength - 1] if reliable else torch.full_like(gap, 0.22)
        stated = gap.sign() * strength * torch.where(torch.rand(600, generator=draw) < errs, -1, 1)
        said = pairs(stated)
        unseen = torch.randn(2000, 2, D, generator=draw)
        wanted = (unseen @ truth)[..., 0].diff(dim=1)
        found = {}
        for name in ("scaled_bradley_terry", "bradley_terry", "mmpo_reward"):
            lead = (unseen @ fit(build(name), said, x, 1))[..., 0].diff(dim=1)
            found[f"accuracy of {name}"] = (lead * wanted > 0).float().mean().item()
        ours = found["accuracy of scaled_bradley_terry"]
        others = {f"lead over {name}": ours - found[f"accuracy of {name}"] for name in ("bradley_terry", "mmpo_reward")}
        return {**found, **others}

    return run


def pairs(stated: Tensor) -> Evidence:
    """Pairs whose first response leads by a stated gap [n]."""
    quality = torch.stack([stated, torch.zeros_like(stated)], -1).float()
    mask = torch.ones_like(quality, dtype=torch.bool)
    weight = compared(mask).float()
    return Evidence(mask, quality, torch.full_like(weight, math.nan), torch.zeros_like(weight), weight)


# ---------------------------------------------------------------------------------------------- SteerLM 2.0

TEXTS, WISHES, DRAWS = 30, 8, 10


@cache
def steered(seed: int) -> dict[str, float]:
    """KL in nats from P(y|a,x), mean over wishes, of tables that learn from their own first draws."""
    draw = torch.Generator().manual_seed(seed)
    prior = torch.randn(WISHES, TEXTS, generator=draw).log_softmax(-1)
    likelihood = (2 * torch.randn(WISHES, TEXTS, generator=draw)).log_softmax(0)  # of the wish, given the text
    # The model that writes is itself steered, only too little: it has half the log-odds of the wish.
    first = (prior + likelihood / 2).log_softmax(-1)
    goal = (prior + likelihood).log_softmax(-1)
    weight = likelihood + prior - first
    found = {"where it begins": divergence(goal, first)}
    methods = {"steerlm2": build("steerlm2"), "mmpo": build("mmpo", gamma=1.0, beta=1.0), "dpo": build("dpo", beta=1.0)}
    for name, method in methods.items():
        theta = first.clone().requires_grad_()
        adam = torch.optim.Adam([theta], 0.05)
        rng = torch.Generator().manual_seed(seed + 1)
        for _ in range(STEERED):
            lists = torch.multinomial(first.exp(), DRAWS, generator=rng)
            logps = theta.log_softmax(-1).gather(1, lists)
            said = of_lists(weight.gather(1, lists))
            loss = method(said, Reading(said.mask, logps, first.gather(1, lists), torch.ones_like(logps))).loss
            adam.zero_grad()
            loss.backward()
            adam.step()
        found[name] = divergence(goal, theta.detach().log_softmax(-1))
    return found


def divergence(p: Tensor, q: Tensor) -> float:
    return (p.exp() * (p - q)).sum(-1).mean().item()


def of_lists(grades: Tensor) -> Evidence:
    """Graded lists [n, K], every two compared."""
    mask = torch.ones_like(grades, dtype=torch.bool)
    weight = compared(mask).to(grades.dtype)
    return Evidence(mask, grades, torch.full_like(weight, math.nan), torch.zeros_like(weight), weight)


def to_the_posterior(seed: int) -> dict[str, float]:
    found = steered(seed)
    return {
        **{f"KL from P(y|a,x), {name}": value for name, value in found.items()},
        "share of the distance that is left": found["steerlm2"] / found["where it begins"],
        "steerlm2 - mmpo": found["steerlm2"] - found["mmpo"],
        "steerlm2 - dpo": found["steerlm2"] - found["dpo"],
    }


# ---------------------------------------------------------------------------------------------- weights in the prompt

ARC = torch.linspace(0, math.pi / 2, 13)
"""Answers on a quarter of a circle: the more helpful, the longer."""

ASKED = torch.tensor([[0.95, 0.05], [0.7, 0.3], [0.5, 0.5], [0.3, 0.7], [0.05, 0.95]])


class Answerer(nn.Module):
    """Answers scored by a small network of answer and weights; uniform at first, which is the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
        for parameter in self.score[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, weights: Tensor) -> Tensor:
        """Weights [n, 2] -> log-probs of the answers [n, 13]."""
        place = torch.stack([ARC.sin(), ARC.cos()], -1).expand(len(weights), -1, -1)
        told = weights[:, None].expand(-1, len(ARC), -1)
        return self.score(torch.cat([place, told], -1)).squeeze(-1).log_softmax(-1)


def conditioned(seed: int) -> dict[str, float]:
    """Expected utility under weights that the prompt asks for."""
    draw = torch.Generator().manual_seed(seed)
    data = []
    for n in range(60):
        some = torch.randperm(len(ARC), generator=draw)[:4]
        noise = 0.05 * torch.randn(2, 4, generator=draw)
        lines = {"help": ARC[some].sin() + noise[0], "short": ARC[some].cos() + noise[1]}
        texts = tuple(str(i) for i in some.tolist())
        data.append(Datum(str(n), "Q?", texts, attributes={name: tuple(line.tolist()) for name, line in lines.items()}))
    rows, _ = add_weights(data, 4, seed=seed)
    policy = answerer(rows, asked(rows), seed)
    plain, _ = add_weights(data, [{"help": 0.5, "short": 0.5}])
    one = answerer(plain, torch.full((len(plain), 2), 0.5), seed)
    worth = ASKED @ torch.stack([ARC.sin(), ARC.cos()])
    with torch.no_grad():
        ours = (policy(ASKED).exp() * worth).sum(-1)
        fixed = (one(torch.full((1, 2), 0.5)).exp() * worth).sum(-1)
        order = policy(ASKED).exp() @ ARC
    return {
        "utility, asked for the weights": ours.mean().item(),
        "utility of a policy of equal weights": fixed.mean().item(),
        "the best there is": worth.amax(-1).mean().item(),
        "lead over equal weights": (ours - fixed).mean().item(),
        "short of the best": (worth.amax(-1) - ours).mean().item(),
        "smallest step of the mean answer from weight to weight": (-order.diff()).min().item(),
    }


def asked(rows: Sequence[Datum]) -> Tensor:
    """The weights [n, 2] that the prompts ask for."""
    told = [str(d.prompt).split(": ")[1].split(".\n\n")[0].replace(",", "").split() for d in rows]
    return torch.tensor([[float(one[1]), float(one[3])] for one in told])


def answerer(rows: Sequence[Datum], weights: Tensor, seed: int) -> Answerer:
    torch.manual_seed(seed)
    policy, said = Answerer(), evidence(rows)
    place = torch.tensor([[int(str(r)) for r in d.responses] for d in rows])
    ref = torch.full(place.shape, 1 / len(ARC)).log()
    method, adam = build("mmpo", gamma=20.0, beta=1.0), torch.optim.Adam(policy.parameters(), 5e-3)
    for _ in range(STEERED):
        loss = method(said, Reading(said.mask, policy(weights).gather(1, place), ref)).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
    return policy


STUDIES = (
    Study(
        "mmpo_voices",
        "any weighting of its outputs can be chosen after training, as if a reward had been trained for it",
        LINEAR + " One reward was trained on the mean; a reward of the weighting on exactly the grades that are asked.",
        chosen_later,
        {"lead over one reward": (0.05, None), "lead over a reward of the weighting": (-0.01, None)},
    ),
    Study(
        "helpsteer2",
        "its outputs are the attributes on their own scale, and any weighting of them orders as well",
        LINEAR + " The error is the root mean square of an output's distance from the true attribute.",
        read_on_the_scale,
        {"error in units of the spread": (None, 0.2), "lead over a reward of the weighting": (-0.01, None)},
    ),
    Study(
        "helpsteer2",
        "it loses little where half of the attributes of a prompt were not graded",
        LINEAR + " Half of the grades are missing, at least one attribute of each prompt is there.",
        half_missing,
        {"lost with half of them": (None, 0.03)},
    ),
    Study(
        "mmpo_voices",
        "where the level of the grades moves from prompt to prompt, differences are learned better than the grades",
        LINEAR + " Each prompt adds a level of its own, of three standard deviations, to all its grades.",
        on_moving_levels,
        {"lead of differences": (0.0, None)},
    ),
    Study(
        "scaled_bradley_terry",
        "where weak statements are often wrong and strong ones rarely, it orders better than the plain price",
        "600 pairs of answers, whose utility is linear in 8 features, with a strength 1 to 3 by the size of the true "
        "gap. 40% of the labels of strength 1 are wrong, 20% of strength 2, and 5% of strength 3. Linear rewards.",
        strengths(True),
        {"lead over bradley_terry": (0.0, None)},
    ),
    Study(
        "scaled_bradley_terry",
        "where all statements err alike, strong ones still tell more",
        "The same with 22% wrong labels at every strength.",
        strengths(False),
        {"lead over bradley_terry": (0.0, None)},
    ),
    Study(
        "steerlm2",
        "a table comes to P(y|a,x) from what it drew at first",
        f"{WISHES} wishes a, {TEXTS} texts y, P(y) and P(a|y) known. Q' has half the log-odds of the wish. Each of "
        f"{STEERED} steps of Adam sees {DRAWS} new draws of Q' a wish, with their log-weights as grades. Measured: "
        "KL(P(y|a) || Q).",
        to_the_posterior,
        {"share of the distance that is left": (None, 0.05)},
    ),
    Study(
        "steerlm2",
        "its shares of a list come nearer to P(y|a,x) than margins of pairs do",
        "The same world, and `mmpo` on the same lists.",
        to_the_posterior,
        {"steerlm2 - mmpo": (None, 0.0)},
    ),
    Study(
        "mmpo",
        "with weights in the prompt, one policy follows any weighting that it is asked for",
        "13 answers on a quarter of a circle: the more helpful, the longer. 60 prompts with four answers are graded on "
        "both with noise of 0.05, and stand four times, each asking for weights drawn from the simplex (`mmpo build "
        "weighted`). Measured: true utility under five weightings, beside that of a policy that learned equal weights.",
        conditioned,
        {
            "lead over equal weights": (0.02, None),
            "short of the best": (None, 0.03),
            "smallest step of the mean answer from weight to weight": (0.0, None),
        },
    ),
)
