"""All numbers of an evaluation, with intervals, overall and in buckets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmpo.errors import UserError
from mmpo.evaluate import buckets
from mmpo.evaluate.agreement import Floats, accuracy, agreement, brier, entropy, nll
from mmpo.evaluate.calibration import (
    BINS,
    PARTS,
    assign,
    brier_parts_of_sums,
    confidence,
    ece_at_most_by_chance,
    ece_by_chance,
    ece_of_sums,
    squared_noise,
    squares_of_sums,
)
from mmpo.evaluate.comparisons import Comparisons
from mmpo.evaluate.resample import by_group, interval, resample

FEW_PROMPTS = 10
SHARES, LABELS = "the share of people on each side", "which side is better"


def summarise(c: Comparisons, *, bootstrap: int = 1000, seed: int = 0, bins: int = BINS) -> dict[str, Any]:
    """Agreement and calibration of a model, ready for JSON.

    Returns ``overall``, ``by_margin``, ``by_length`` and ``by_subset`` (no buckets where the data have no subsets), and
    the settings of the measurement. ``overall``, and each of the ``buckets`` of the others, hold n_comparisons,
    n_prompts, n_ties (of people), ``ece_by_chance`` (what a perfectly calibrated model would show on average),
    ``ece_at_most_by_chance`` (what it would exceed one time in twenty), a ``note`` where the intervals rest on few
    prompts, ``brier_parts`` (see ``calibration.brier_parts_of_sums``), each part and each of these {value, low, high}:

        accuracy, agreement, ece, ece_mass, ece_squared, brier, nll, confidence, overconfidence

    where low and high are the 95% interval of a bootstrap over prompts, null where there is but one prompt.
    ``overall["against"]`` says what the model is held against. Where that is soft shares, ``against_majority`` holds
    the same as ``overall`` against the label of the majority, a tie staying one half.
    Raises UserError where there is nothing to compare.
    """
    if not len(c):
        raise UserError("no two responses of a prompt were compared; check that the data has grades, votes or pairs")
    how = {"bootstrap": bootstrap, "seed": seed, "bins": bins}
    soft = not np.isin(c.p, (0, 0.5, 1)).all()
    out: dict[str, Any] = {"overall": {**measure(c, **how), **_landmarks(c), "against": SHARES if soft else LABELS}}
    if soft:
        labels = majority(c)
        out["against_majority"] = {**measure(labels, **how), **_landmarks(labels), "against": LABELS}
    by, strength = buckets.strengths(c)
    told = buckets.length_bias(c)
    values, over = {name: v for name, (v, _) in told.items()}, {name: mask for name, (_, mask) in told.items()}
    bias = means_of(c, values, over, bootstrap=bootstrap, seed=seed)
    grouped: dict[str, tuple[str, buckets.Named, dict[str, Any]]] = {
        "by_margin": (by, strength, {}),
        "by_length": ("how much longer the longer response is", buckets.lengths(c), bias),
        "by_subset": ("subset of the data", buckets.subsets(c), {}),
    }
    for name, (by, groups, further) in grouped.items():
        measured = [{"label": label, **measure(c.where(mask), **how)} for label, mask in groups]
        out[name] = {"by": by, "buckets": measured, **further}
    return {**out, **how}


def majority(c: Comparisons) -> Comparisons:
    """The comparisons with the label of the majority in place of the share: 1, 0, or 1/2 for a tie."""
    return replace(c, p=0.5 + 0.5 * np.sign(c.p - 0.5))


def measure(c: Comparisons, *, bootstrap: int = 1000, seed: int = 0, bins: int = BINS) -> dict[str, Any]:
    """Counts and metrics of some comparisons, as in ``summarise``."""
    f, y = confidence(c.m), agreement(c.p, c.m)
    means = {
        "accuracy": accuracy(c.p, c.m),
        "agreement": y,
        "brier": brier(c.p, c.m),
        "nll": nll(c.p, c.m),
        "confidence": f,
        "overconfidence": f - y,
    }
    squares = {"own": f**2, "cross": f * y, "spread": (c.p - 0.5) ** 2}
    # Every metric is a function of sums over prompts, so a prompt is one row, and a resample one product.
    sums = {name: by_group(c.group, c.weight * v)[:, None] for name, v in {**means, **squares}.items()}
    for kind in ("width", "mass"):
        bin_of = assign(c.m, c.weight, bins, kind)
        for name, v in {"n": np.ones(len(c)), "f": f, "y": y}.items():
            sums[f"{kind}_{name}"] = by_group(c.group, c.weight * v, bin_of)
    table, ends = np.hstack(list(sums.values())), np.cumsum([each.shape[1] for each in sums.values()])[:-1]
    noise = squared_noise(c, bins, "mass")

    def metrics(row: Floats) -> dict[str, Floats]:
        s = dict(zip(sums, np.split(row, ends, axis=-1), strict=True))
        total = s["width_n"].sum(-1)
        found = {name: s[name][..., 0] / total for name in means}
        for kind, name in (("width", "ece"), ("mass", "ece_mass")):
            found[name] = ece_of_sums(s[f"{kind}_f"] - s[f"{kind}_y"], total)
        found["ece_squared"] = squares_of_sums(s["mass_f"] - s["mass_y"], s["mass_n"], total) - noise
        both = np.concatenate([s[name] for name in squares], axis=-1)
        return found | brier_parts_of_sums(s["width_f"], s["width_y"], s["width_n"], both)

    value, draws = metrics(table.sum(0)), metrics(resample(table, bootstrap, seed))
    found = {name: _interval(float(value[name]), draws[name], len(table)) for name in value}
    parts = {name: found.pop(name) for name in PARTS}
    return {**_counts(c, bootstrap, seed, bins), **found, "brier_parts": parts}


def _counts(c: Comparisons, bootstrap: int, seed: int, bins: int) -> dict[str, Any]:
    """How much there is to measure on, and the ECE that this gives rise to."""
    prompts = len(np.unique(c.group))
    out: dict[str, Any] = {
        "n_comparisons": len(c),
        "n_prompts": prompts,
        "n_ties": int((c.p == 0.5).sum()),
        "ece_by_chance": _plain(ece_by_chance(c, bins=bins)),
        "ece_at_most_by_chance": _plain(ece_at_most_by_chance(c, bins=bins, bootstrap=bootstrap, seed=seed)),
    }
    if prompts < FEW_PROMPTS:
        out["note"] = f"the intervals rest on {prompts} prompt{'s' * (prompts != 1)}; they are too narrow to rely on"
    return out


def means_of(
    c: Comparisons,
    values: Mapping[str, Floats],
    over: Mapping[str, NDArray[np.bool_]] | None = None,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, float | None]]:
    """The weighted mean over the comparisons, or ``over`` some of them [N], of each of these values [N]:
    {name: {value, low, high}}, null where there is nothing to average."""
    chosen = {name: np.ones(len(c), bool) if over is None else over[name] for name in values}
    above = [by_group(c.group, c.weight * v * chosen[name]) for name, v in values.items()]
    below = [by_group(c.group, c.weight * mask) for mask in chosen.values()]

    def means(rows: Floats) -> Floats:
        top, mass = np.split(rows, 2, axis=-1)
        return np.divide(top, mass, out=np.full(top.shape, np.nan), where=mass > 0)

    table = np.stack([*above, *below], 1)
    value, draws = means(table.sum(0)), means(resample(table, bootstrap, seed))
    # A draw may miss every prompt that has anything to average.
    return {
        name: _interval(float(value[n]), draws[~np.isnan(draws[:, n]), n], int((below[n] > 0).sum()))
        for n, name in enumerate(values)
    }


def _interval(value: float, draws: Floats, prompts: int) -> dict[str, float | None]:
    if math.isnan(value):
        return {"value": None, "low": None, "high": None}
    return interval(value, draws, prompts)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _landmarks(c: Comparisons) -> dict[str, dict[str, float]]:
    """What the best possible model and a coin would show."""
    best = {
        "accuracy": 1 - _mean(c, c.p == 0.5) / 2,
        "agreement": _mean(c, np.maximum(c.p, 1 - c.p)),
        "nll": _mean(c, entropy(c.p)),
        "brier": 0.0,
    }
    coin = {"accuracy": 0.5, "agreement": 0.5, "nll": math.log(2), "brier": _mean(c, (c.p - 0.5) ** 2)}
    return {"best_possible": best, "coin": coin}


def _mean(c: Comparisons, values: NDArray[Any]) -> float:
    return float(np.average(values, weights=c.weight))
