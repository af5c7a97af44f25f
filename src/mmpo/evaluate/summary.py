"""All numbers of an evaluation, with intervals, overall and in buckets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmpo.errors import UserError
from mmpo.evaluate.agreement import Floats, accuracy, agreement, brier, nll
from mmpo.evaluate.calibration import BINS, assign, confidence, ece_by_chance, ece_of_sums, excess
from mmpo.evaluate.comparisons import Comparisons
from mmpo.evaluate.resample import by_group, resample

FEW_PROMPTS = 10
Mask = NDArray[np.bool_]


def summarise(c: Comparisons, *, bootstrap: int = 1000, seed: int = 0, bins: int = BINS) -> dict[str, Any]:
    """Agreement and calibration of a model, ready for JSON.

    Returns ``overall``, ``by_margin`` and ``by_length``, and the settings of the measurement. ``overall``, and each
    of the ``buckets`` of the other two, hold n_comparisons, n_prompts, n_ties (of people), ``ece_by_chance`` (what a
    perfectly calibrated model would show), a ``note`` where the intervals rest on few prompts, and

        accuracy, agreement, ece, ece_mass, brier, nll, confidence, overconfidence: {value, low, high}

    where low and high are the 95% interval of a bootstrap over prompts, null where there is but one prompt.
    Raises UserError where there is nothing to compare.
    """
    if not len(c):
        raise UserError("no two responses of a prompt were compared; check that the data has grades, votes or pairs")
    how = {"bootstrap": bootstrap, "seed": seed, "bins": bins}
    overall = measure(c, **how)
    overall["best_possible"] = {
        "accuracy": 1 - _mean(c, c.p == 0.5) / 2,
        "agreement": _mean(c, np.maximum(c.p, 1 - c.p)),
        "nll": _mean(c, _entropy(c.p)),
        "brier": 0.0,
    }
    overall["coin"] = {"accuracy": 0.5, "agreement": 0.5, "nll": math.log(2), "brier": _mean(c, (c.p - 0.5) ** 2)}
    by, strength = _strengths(c)
    return {
        "overall": overall,
        "by_margin": {"by": by, "buckets": [{"label": k, **measure(c.where(v), **how)} for k, v in strength]},
        "by_length": {
            "by": "how much longer the longer response is",
            "buckets": [{"label": k, **measure(c.where(v), **how)} for k, v in _lengths(c)],
            **_length_bias(c),
        },
        **how,
    }


def measure(c: Comparisons, *, bootstrap: int = 1000, seed: int = 0, bins: int = BINS) -> dict[str, Any]:
    """Counts and metrics of some comparisons, as in ``summarise``."""
    means = {
        "accuracy": accuracy(c.p, c.m),
        "agreement": agreement(c.p, c.m),
        "brier": brier(c.p, c.m),
        "nll": nll(c.p, c.m),
        "confidence": confidence(c.m),
        "overconfidence": confidence(c.m) - agreement(c.p, c.m),
    }
    binned = {
        "ece": assign(c.m, c.weight, bins, "width"),
        "ece_mass": assign(c.m, c.weight, bins, "mass"),
    }
    # Every metric is a function of sums over prompts, so a prompt is one row, and a resample one product.
    rows = [by_group(c.group, c.weight)[:, None]]
    rows += [by_group(c.group, c.weight * value)[:, None] for value in means.values()]
    rows += [by_group(c.group, excess(c.p, c.m, c.weight), bin_of) for bin_of in binned.values()]
    table, ends = np.hstack(rows), np.cumsum([row.shape[1] for row in rows])[:-1]

    def metrics(sums: Floats) -> dict[str, Floats]:
        total, *parts = np.split(sums, ends, axis=-1)
        found = {name: (part / total)[..., 0] for name, part in zip(means, parts, strict=False)}
        eces = zip(binned, parts[len(means) :], strict=True)
        return found | {name: ece_of_sums(part, total[..., 0]) for name, part in eces}

    value, draws = metrics(table.sum(0)), metrics(resample(table, bootstrap, seed))
    prompts = len(table)
    chance = ece_by_chance(c, bins=bins)
    out: dict[str, Any] = {
        "n_comparisons": len(c),
        "n_prompts": prompts,
        "n_ties": int((c.p == 0.5).sum()),
        "ece_by_chance": None if math.isnan(chance) else chance,
    }
    if prompts < FEW_PROMPTS:
        out["note"] = f"the intervals rest on {prompts} prompt{'s' * (prompts != 1)}; they are too narrow to rely on"
    return out | {name: _interval(float(value[name]), draws[name], prompts) for name in value}


def _interval(value: float, draws: Floats, prompts: int) -> dict[str, float | None]:
    if prompts < 2 or not len(draws):
        return {"value": value, "low": None, "high": None}
    # Resampling repeats the noise, which lifts ECE; the draws are moved back so that they lie around the value.
    low, high = np.quantile(draws - (draws.mean() - value), [0.025, 0.975])
    floor = 0.0 if draws.min() >= 0 else -math.inf
    return {"value": value, "low": max(float(low), floor), "high": float(high)}


def _entropy(p: Floats) -> Floats:
    tiny = np.finfo(float).tiny
    return -p * np.log(np.maximum(p, tiny)) - (1 - p) * np.log(np.maximum(1 - p, tiny))


def _mean(c: Comparisons, values: NDArray[Any]) -> float:
    return float(np.average(values, weights=c.weight))


def _strengths(c: Comparisons) -> tuple[str, list[tuple[str, Mask]]]:
    """Buckets by how strongly people prefer: by graded gap where at least half have one, else by share of votes."""
    size = np.abs(c.gap)
    known = np.isfinite(size)
    if known.mean() >= 0.5:
        cuts = np.unique(np.quantile(size[known & (size > 0)], [0.25, 0.5, 0.75])) if (size > 0).any() else np.empty(0)
        named = [("tie", size == 0), *_intervals(np.where(size > 0, size, np.nan), cuts), ("not graded", ~known)]
        return "size of the graded gap, quartiles", _filled(named)
    lead = np.abs(2 * c.p - 1)
    if np.isin(lead, (0, 1)).all():
        return "nothing: the data says which is better, not by how much", _filled(
            [("tie", lead == 0), ("not a tie", lead == 1)]
        )
    named = [
        ("tie", lead == 0),
        ("slight: up to 67% on one side", (lead > 0) & (lead <= 0.34)),
        ("clear: up to 83%", (lead > 0.34) & (lead <= 0.67)),
        ("strong: over 83%", lead > 0.67),
    ]
    return "share of people on the preferred side", _filled(named)


def _intervals(values: Floats, cuts: Floats) -> Iterator[tuple[str, Mask]]:
    """Half-open intervals (a, b] around the cuts; NaN lies in none."""
    ends = [-math.inf, *cuts, math.inf]
    for a, b in pairwise(ends):
        label = f"over {a:.3g}" if b == math.inf else f"up to {b:.3g}" if a == -math.inf else f"{a:.3g} to {b:.3g}"
        yield label, (values > a) & (values <= b)


def _lengths(c: Comparisons) -> list[tuple[str, Mask]]:
    short, long = np.minimum(c.length_i, c.length_j), np.maximum(c.length_i, c.length_j)
    named = [
        ("within 10% of each other", short >= 0.9 * long),
        ("up to twice as long", (short < 0.9 * long) & (2 * short >= long)),
        ("more than twice as long", 2 * short < long),
        ("length unknown", np.isnan(long)),
    ]
    return _filled(named)


def _length_bias(c: Comparisons) -> dict[str, float | None]:
    """How often people and model prefer the longer response, and how right the model is where it is the better one."""
    side = np.sign(c.length_i - c.length_j)
    known = np.abs(side) == 1
    people, model = 0.5 + side * (c.p - 0.5), 0.5 + 0.5 * side * np.sign(c.m)
    right = accuracy(c.p, c.m)

    def mean(values: Floats, mask: Mask) -> float | None:
        return float(np.average(values[mask], weights=c.weight[mask])) if mask.any() else None

    return {
        "people_prefer_longer": mean(people, known),
        "model_prefers_longer": mean(model, known),
        "accuracy_where_longer_is_better": mean(right, known & (people > 0.5)),
        "accuracy_where_shorter_is_better": mean(right, known & (people < 0.5)),
    }


def _filled(named: list[tuple[str, Mask]]) -> list[tuple[str, Mask]]:
    return [(name, mask) for name, mask in named if mask.any()]
