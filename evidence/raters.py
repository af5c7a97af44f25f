"""Real people: does a model of raters say more of their votes than one reward for all?

Heads of several methods over frozen features are trained on the single votes of the same raters, and held against
single votes on other topics: of raters that they know, and of raters that they never heard, who are placed from no, 5
and 20 votes. All are trained on the votes themselves (target ``Votes``), so that they differ in the score alone, and
stopped by the votes on further topics. Settings were chosen on seeds 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from tqdm.auto import tqdm

from evidence.common import interval, over_seeds, write
from evidence.frozen import vectors
from evidence.ideas.study import FIRST_SEED
from evidence.raters_data import ENOUGH, NAMED, Embed, Panel, Split, few, split
from evidence.raters_heads import RATE, Fitted, Held, fit, has_places, held, placed
from evidence.raters_votes import KINDS, PLANTED, Kind
from mmpo.data import merge
from mmpo.evaluate.agreement import Floats, accuracy, nll
from mmpo.evaluate.calibration import ece
from mmpo.evaluate.cycles import cycles
from mmpo.evaluate.resample import by_group, ratio_interval
from mmpo.methods import CATALOGUE, build
from mmpo.methods.reward import mmpo_reward, soft_bradley_terry
from mmpo.objectives import Logistic
from mmpo.scores import GlobalMixture
from mmpo.targets import Posterior, Votes
from mmpo.types import Method

SEEDS = range(FIRST_SEED, FIRST_SEED + 5)
LABELS = (5, 20)
"""Votes from which an unseen rater is placed."""
ONE = "one reward"
KNOWN, UNHEARD = "known", "unseen, 0 votes"
"""Held-out votes of raters that training told apart, and of those that it never heard; who is placed from votes has
``unseen, N votes``."""
UNITS = {"raters": "who", "groups": "group"}
METRICS = ("accuracy", "nll", "ece", "rater nll", "worst accuracy")

WANTED: dict[str, tuple[str, Mapping[str, float]]] = {
    "a reward for each": ("mmpo_voices", {}),
    "PAL-A, 2 prototypes": ("pal_a", {"prototypes": 2}),
    "PAL-A, 5 prototypes": ("pal_a", {"prototypes": 5}),
    "PAL-B, 2 prototypes": ("pal_b", {"prototypes": 2}),
    "2 groups": ("maxmin_reward", {"groups": 2}),
    "5 groups": ("maxmin_reward", {"groups": 5}),
    "mixture of 5, by prompt": ("micro", {"heads": 5}),
    "mixture of 5, by person": ("micro_people", {"heads": 5}),
    "skew-symmetric": ("gpm", {"tau": 1.0}),
}
"""Condition -> method of the catalogue, and its hyper-parameters; at its tau of 0.1 gpm learned worse on the design
seeds, since its first margins are ten times as large."""

RATES = {"a reward for each": 3e-3, "PAL-B, 2 prototypes": 3e-3}
"""Conditions that learned better at another rate than the others on the design seeds, of 3e-4, 1e-3 and 3e-3."""

CONTROL = (ONE, "a reward for each", "PAL-A, 2 prototypes", "2 groups", "5 groups", "mixture of 5, by person")
"""What is tried where half of the votes were turned round, on three seeds."""


def on_votes(name: str, **parameters: float) -> Method:
    """The score of a method of the catalogue, and its further terms, under the target and the price that all have."""
    method = build(name, **parameters)
    placing = {"said": Votes()} if hasattr(method.score, "said") else {}
    score: Any = replace(cast(Any, method.score), **placing)
    return replace(method, target=Votes(), score=score, objective=Logistic())


def conditions() -> dict[str, Method]:
    """What is compared; ``ONE`` comes first."""
    one = soft_bradley_terry()
    return {
        ONE: one,
        "one reward, MMPO": mmpo_reward(),
        "one reward, reliability": replace(one, target=Posterior(Votes())),
        "mixture of 5, for all": Method(Votes(), GlobalMixture(heads=5), Logistic()),
        **{name: on_votes(row, **values) for name, (row, values) in WANTED.items() if row in CATALOGUE},
    }


# ---------------------------------------------------------------------------------------------- measures


@dataclass(frozen=True)
class Measured:
    """What one condition says of some votes: the row of numbers, and NLL and accuracy vote by vote."""

    row: dict[str, Any]
    votes: Held
    nll: Floats
    accuracy: Floats


def measure(votes: Held) -> tuple[dict[str, float], Floats, Floats]:
    """Accuracy on decided votes, NLL and ECE on all, a tie being half a vote to each side; the mean NLL and the worst
    accuracy of the raters with ``ENOUGH`` decided votes. And NLL and accuracy vote by vote, the latter NaN for ties."""
    decided = votes.p != 0.5
    costs, right = nll(votes.p, votes.m), np.where(decided, accuracy(votes.p, votes.m), np.nan)
    numbers = {"accuracy": right[decided].mean(), "nll": costs.mean(), "ece": ece(votes.p, votes.m)}
    apart = np.bincount(votes.who), np.bincount(votes.who, decided)
    many = np.minimum(*apart) >= ENOUGH
    if many.any():
        numbers["rater nll"] = (np.bincount(votes.who, costs)[many] / apart[0][many]).mean()
        numbers["worst accuracy"] = (np.bincount(votes.who, np.nan_to_num(right))[many] / apart[1][many]).min()
    return {name: float(numbers.get(name, np.nan)) for name in METRICS}, costs, right


def views(fitted: Fitted, panel: Panel, plan: Split, seed: int) -> Iterator[tuple[str, Held]]:
    """The held-out votes of known voices, and those of unseen ones placed from no and from a few votes."""
    nobody = torch.full_like(plan.number, -1)
    yield KNOWN, held(fitted, panel, torch.where(plan.named, plan.number, nobody), plan.test)
    unseen = torch.tensor(plan.unseen)
    anybody = held(fitted, panel, nobody.index_fill(0, unseen, 0), plan.test)
    yield UNHEARD, anybody
    own = nobody.index_copy(0, unseen, torch.arange(len(unseen)) + fitted.voices)
    for labels in LABELS if has_places(fitted.method) else ():
        after = placed(fitted, panel, own, few(panel, plan, labels, seed))
        yield f"unseen, {labels} votes", held(after, panel, own, plan.test)


def one_seed(panel: Panel, kind: Kind, seed: int, methods: Mapping[str, Method]) -> list[Measured]:
    plan, found = split(panel, seed), []
    for name, method in methods.items():
        rate = RATES.get(name, RATE)
        fitted = fit(method, panel, plan.number, plan.train, plan.valid, seed=seed, batch=kind.batch, rate=rate)
        for which, votes in views(fitted, panel, plan, seed):
            numbers, costs, right = measure(votes)
            row = {"method": name, "seed": seed, "set": which, "votes": len(costs), **numbers}
            found.append(Measured(row, votes, costs, right))
    return found


# ---------------------------------------------------------------------------------------------- differences


def differences(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """Each condition less one reward, and where raters were placed less the same without: over seeds as a Student
    interval, and over raters and groups of prompts by the bootstrap, of all votes of all seeds, which it resamples with
    their rater or their group."""
    at = {(m.row["method"], m.row["set"], m.row["seed"]): m for m in found}
    seeds = list(dict.fromkeys(seed for _, _, seed in at))
    out = []
    for method, which in dict.fromkeys((name, which) for name, which, _ in at if name != ONE):
        # One reward has no places, and says of everybody what it says of anybody.
        others = [(ONE, which if which == KNOWN else UNHEARD)]
        others += [(method, UNHEARD)] if which not in (KNOWN, UNHEARD) else []
        for other, base in others:
            pairs = [(at[method, which, seed], at[other, base, seed]) for seed in seeds]
            out.append({"method": method, "set": which, "less": f"{other}, {base}", **difference(pairs)})
    return out


def difference(pairs: Sequence[tuple[Measured, Measured]]) -> dict[str, Any]:
    """The first less the second of each seed, which are of the same votes."""
    row: dict[str, Any] = {m: interval([a.row[m] - b.row[m] for a, b in pairs]) for m in METRICS}
    for metric in ("nll", "accuracy"):
        gaps = np.concatenate([getattr(a, metric) - getattr(b, metric) for a, b in pairs])
        there = ~np.isnan(gaps)
        row |= {f"{metric}, over {name}": over(unit, pairs, gaps, there) for name, unit in UNITS.items()}
    return {**row, "verdict": verdict(row)}


def over(
    unit: str, pairs: Sequence[tuple[Measured, Measured]], gaps: Floats, there: Any
) -> dict[str, float | int | None]:
    """The mean gap of a vote, and its interval over raters ("who") or groups of prompts."""
    whose = np.concatenate([getattr(a.votes, unit) for a, _ in pairs])[there]
    sums, counts = by_group(whose, gaps[there]), by_group(whose, np.ones(there.sum()))
    mean, low, high = ratio_interval(sums, counts)
    return {"mean": mean, "low": low, "high": high, "n": len(sums)} if len(sums) > 1 else {"mean": mean, "n": 1}


def verdict(row: Mapping[str, Any]) -> str:
    """Whether the NLL is lower than that of one reward, over seeds and over groups of prompts both."""
    ends = [row["nll"], row["nll, over groups"]]
    if all(e["high"] < 0 for e in ends):
        return "lower"
    return "higher" if all(e["low"] > 0 for e in ends) else "unclear"


# ---------------------------------------------------------------------------------------------- all of it


def about(panel: Panel, kind: Kind, seeds: Sequence[int]) -> dict[str, Any]:
    """How many labels there are, and how much any two voices agree."""
    plans = [split(panel, seed) for seed in seeds]
    labels = panel.labels(torch.ones(len(panel), dtype=torch.bool))[1:].numpy()
    apart = [panel.labels(plan.train)[plan.named].double() for plan in plans]
    return {
        "about": kind.about,
        "voices": kind.voices,
        "data": len(panel),
        "groups": len(set(panel.groups)),
        "raters": len(panel.names),
        "votes": int(labels.sum()),
        "labels": {"mean": labels.mean(), **{f"{q}%": np.quantile(labels, q / 100) for q in (10, 50, 90, 100)}},
        "told apart": float(np.mean([len(a) for a in apart])),
        "training labels of those": {
            "median": float(np.mean([a.median() for a in apart])),
            "mean": float(np.mean([a.mean() for a in apart])),
        },
        "unseen": float(np.mean([len(plan.unseen) for plan in plans])),
        **agreed(panel),
    }


def agreed(panel: Panel) -> dict[str, float]:
    """The share of ties among votes, and how often two votes of different voices on one pair, both decided, agree."""
    votes = panel.voices.votes
    cast, net = votes + votes.mT, votes - votes.mT
    firm, tied = (net != 0).sum((1, 2, 3)), ((cast > 0) & (net == 0)).sum()
    wins = (net > 0).sum(1).double()
    losses = wins.mT
    same, other = (wins * (wins - 1) / 2 + losses * (losses - 1) / 2).triu(1).sum(), (wins * losses).triu(1).sum()
    return {"ties": float(tied / (tied + firm.sum())), "agreement of two": float(same / (same + other))}


def study(
    name: str, kind: Kind, methods: Mapping[str, Method], seeds: Sequence[int], embed: Embed = vectors
) -> dict[str, Any]:
    """One data set, all conditions and seeds."""
    panel = Panel.of(kind.read(), kind.group, embed)
    found = [m for seed in tqdm(seeds, desc=name) for m in one_seed(panel, kind, seed, methods)]
    rows = [m.row for m in found]
    return {
        "data": about(panel, kind, seeds),
        "runs": rows,
        ONE: over_seeds([row for row in rows if row["method"] == ONE], ("set",), METRICS),
        "minus one reward": differences(found),
    }


def main() -> None:
    methods = conditions()
    results = {name: study(name, kind, methods, SEEDS) for name, kind in KINDS.items()}
    results["planted"] = study("planted", PLANTED, {name: methods[name] for name in CONTROL}, SEEDS[:3])
    write("raters", rounded(settings(results, cycles(merge(KINDS["arguments"].read())[0]))))


def settings(results: Mapping[str, Any], cyclic: Mapping[str, Any] | None) -> dict[str, Any]:
    methods = conditions()
    equations = {name: method.equation.splitlines() for name, method in methods.items()}
    real = {name: found for name, found in results.items() if name != "planted"}
    return {
        "sets": real,
        "planted": results["planted"],
        "cycles": cyclic,
        "equations": equations,
        "tell raters apart": [name for name, method in methods.items() if method.voices is not None],
        "named from": NAMED,
        "measured from": ENOUGH,
        "seeds": list(SEEDS),
    }


def rounded(value: Any) -> Any:
    """The same with five decimals."""
    if isinstance(value, Mapping):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(float(value), 5) if isinstance(value, float) else value
