"""An evaluation as report.json, for programs, and report.html, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpo.evaluate.calibration import reliability
from mmpo.evaluate.comparisons import Comparisons
from mmpo.evaluate.health.page import section as health
from mmpo.evaluate.voices_page import cycles, voices
from mmpo.files import write_json
from mmpo.report import Page, figures
from mmpo.report.numbers import ends, with_ends

CURVES = {
    "loss": "loss",
    "rewards/accuracies": "accuracy (ties count half)",
    "rewards/margins": "mean margin of the better response",
}
"""What is drawn of a training history: keys of the Trainer's log, each also with the prefix ``eval_``."""

SHARES = frozenset({"accuracy", "agreement"})
"""Metrics that are shown in per cent."""


def write_report(
    result: Mapping[str, Any],
    comparisons: Comparisons,
    out: str | Path,
    *,
    title: str,
    model_name: str,
    history: Sequence[Mapping[str, Any]] | None = None,
    notes: Sequence[str] = (),
    gamma: float | None = None,
    calibrated: Comparisons | None = None,
) -> None:
    """Write ``out/report.json`` and ``out/report.html``.

    report.json holds, with sorted keys, all of ``result`` as ``summarise`` documents it (``overall`` with
    n_comparisons, and accuracy, ece, brier, nll ... each {value, low, high}), and ``model``, ``title`` and ``notes``.

    Args:
        result: what ``summarise`` returned for ``comparisons``.
        history: the ``log_history`` of the Trainer, for training curves.
        notes: what was dropped or truncated, and anything else that the reader must know, one sentence each.
        gamma: logits that one point of grade is worth, to draw the matched margin beside the measured ones.
        calibrated: the same comparisons with calibrated margins; ``result["calibrated"]`` holds their numbers.
    """
    out = Path(out)
    record = {**result, "title": title, "model": model_name, "notes": list(notes)}
    write_json(out / "report.json", record)
    page = Page(title, f"Model: {model_name}")
    _main_numbers(page, result["overall"], notes)
    _calibration(page, result, comparisons, calibrated)
    _views(page, result)
    _parts_of_brier(page, result["overall"])
    _margins(page, comparisons, gamma)
    _buckets(page, result)
    voices(page, result)
    cycles(page, result)
    if history:
        _training(page, history)
    health(page, model_name)
    _method(page, result)
    page.write(out / "report.html")


def _main_numbers(page: Page, overall: Mapping[str, Any], notes: Sequence[str]) -> None:
    best, coin = overall["best_possible"], overall["coin"]
    page.text(_in_words(overall))
    if "note" in overall:
        page.warn(f"Few prompts: {overall['note']}.")
    means = {
        "Accuracy": (
            "accuracy",
            f"Ordered as most people do. Best possible here: {best['accuracy']:.1%}; a coin: 50%.",
        ),
        "Calibration error (ECE)": ("ece", f"Mean distance of probability and share of people. {_chance(overall)}"),
        "Log loss (NLL)": (
            "nll",
            f"Lower is better. Best possible here: {best['nll']:.3f}; a coin: {coin['nll']:.3f}.",
        ),
        "Brier score": ("brier", f"Lower is better. Best possible: 0; a coin: {coin['brier']:.3f}."),
    }
    page.numbers([_tile(overall, label, metric, note) for label, (metric, note) in means.items()])
    if notes:
        page.section("What the reader must know").text("\n\n".join(notes))


def _in_words(overall: Mapping[str, Any]) -> str:
    shares = {name: f"{overall[name]['value']:.1%}" for name in ("accuracy", "confidence", "agreement")}
    ties, over = overall["n_ties"], overall["overconfidence"]
    halves = f" ({ties:,} ties of people count half)" if ties else ""
    words = (
        f"On {overall['n_comparisons']:,} comparisons from {overall['n_prompts']:,} prompts, the model prefers what "
        f"most people prefer in {shares['accuracy']}{halves}. It is {shares['confidence']} sure of its choice on "
        f"average, and {shares['agreement']} of people agree with it: "
    )
    if over["low"] is None or over["low"] <= 0 <= over["high"]:
        return words + "its confidence is not measurably too high or too low."
    return words + f"it is {'over' if over['value'] > 0 else 'under'}-confident."


def _chance(overall: Mapping[str, Any]) -> str:
    chance, most = overall["ece_by_chance"], overall["ece_at_most_by_chance"]
    if chance is None:
        return ""
    said = f"A perfectly calibrated model would show {chance:.3f} here by chance, seldom over {most:.3f}"
    return f"{said}: " + ("this one is not." if overall["ece"]["value"] > most else "this may be one.")


def _calibration(page: Page, result: Mapping[str, Any], c: Comparisons, calibrated: Comparisons | None) -> None:
    curves = {"model": c} if calibrated is None else {"model": c, "calibrated": calibrated}
    how = {"bins": result["bins"], "bootstrap": result["bootstrap"], "seed": result["seed"]}
    page.section("Can its probabilities be believed?", "On the dashed line, a probability of 80% means 80% of people.")
    page.figure(
        figures.reliability({name: reliability(one, **how) for name, one in curves.items()}),
        "Reliability diagram: share of people against the probability that the model gives, with 95% intervals. Each "
        "comparison is read in both directions, so one half mirrors the other. Below the line on the right means "
        "over-confident.",
    )


def _views(page: Page, result: Mapping[str, Any]) -> None:
    """The same comparisons against shares and against labels, and before and after calibration, where there are two."""
    overall = result["overall"]
    views = [{"label": f"against {overall['against']}", **overall}]
    if "against_majority" in result:
        views.append({"label": "against the label of the majority", **result["against_majority"]})
    if "calibrated" in result:
        views.append({"label": f"calibrated: {result['calibrated']['by']}", **result["calibrated"]})
    if len(views) > 1:
        page.table(*_table(views), caption="In brackets: 95% intervals. A tie of people is one half in every view.")


def _parts_of_brier(page: Page, overall: Mapping[str, Any]) -> None:
    parts = overall["brier_parts"]
    meanings = {
        "reliability": ("+ reliability", "how far off the probabilities are; 0 is best"),
        "resolution": ("- resolution", "how far the model tells comparisons apart; the more the better"),
        "uncertainty": ("+ uncertainty", "of the data alone"),
        "within_bin_variance": ("+ variance within bins", "probabilities that share a bin and differ"),
        "within_bin_covariance": ("- covariance within bins", "what people say that goes with them"),
    }
    rows = [[label, _interval(parts, name, ".4f"), meaning] for name, (label, meaning) in meanings.items()]
    page.table(
        ["part", "value", "what it is"],
        [*rows, ["= Brier score", _interval(overall, "brier", ".4f"), ""]],
        caption="The Brier score in its parts, over the bins of the diagram.",
    )


def _margins(page: Page, c: Comparisons, gamma: float | None) -> None:
    graded = bool(np.isfinite(c.gap).any())
    gap, name = (c.gap, "graded gap") if graded else (2 * c.p - 1, "lead in votes, 2 p - 1")
    missing = int((~np.isfinite(gap)).sum() + (gap == 0).sum())
    page.figure(
        figures.margin_scatter(gap, c.m, gamma=gamma if graded else None, xlabel=name),
        f"Model margin against {name}, seen from the better response: does a larger difference get a larger margin? "
        f"Ties and comparisons without a gap are left out ({missing:,}).",
    )
    page.figure(
        figures.histogram({"model": np.abs(c.m)}, xlabel="size of the model margin, in logits"),
        "How far apart the model places two responses: 2.2 logits are a probability of 90%, 4.6 logits 99%.",
    )


def _buckets(page: Page, result: Mapping[str, Any]) -> None:
    margin, length, subset = result["by_margin"], result["by_length"], result["by_subset"]
    if subset["buckets"]:
        page.section("Subset by subset", f"Comparisons grouped by: {subset['by']}.")
        page.table(*_table(subset["buckets"]), caption="In brackets: 95% intervals.")
    page.section("Where people prefer clearly, and where they hardly do", f"Comparisons grouped by: {margin['by']}.")
    page.table(*_table(margin["buckets"]), caption="In brackets: 95% intervals.")
    page.text(
        "Within such a group the strength of the preference is known and the model does not see it, so here even a "
        "calibrated model looks under-confident where people agree and over-confident where they do not."
    )
    page.section("Short against long responses", f"Comparisons grouped by: {length['by']}.")
    bias = {
        "People prefer the longer response": "people_prefer_longer",
        "The model prefers the longer response": "model_prefers_longer",
        "Accuracy where the longer one is better": "accuracy_where_longer_is_better",
        "Accuracy where the shorter one is better": "accuracy_where_shorter_is_better",
    }
    page.facts({label: _interval(length, name, ".1%") for label, name in bias.items()})
    page.table(*_table(length["buckets"]), caption="In brackets: 95% intervals.")


def _table(buckets: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    headers = ["group", "comparisons", "prompts", "accuracy", "ECE", "Brier", "NLL"]
    rows = [
        [
            bucket["label"],
            bucket["n_comparisons"],
            bucket["n_prompts"],
            _interval(bucket, "accuracy"),
            _interval(bucket, "ece"),
            _interval(bucket, "brier"),
            _interval(bucket, "nll"),
        ]
        for bucket in buckets
    ]
    return headers, rows


def _training(page: Page, history: Sequence[Mapping[str, Any]]) -> None:
    drawn = []
    for metric, ylabel in CURVES.items():
        found = {
            name: figures.Series([row["step"] for row in rows], [row[key] for row in rows])
            for name, key in (("training", metric), ("evaluation", f"eval_{metric}"))
            if (rows := [row for row in history if key in row and "step" in row])
        }
        if found:
            drawn.append((figures.curves(found, ylabel=ylabel), f"{ylabel} over the steps of training".capitalize()))
    if drawn:
        page.section("How training went")
    for figure, caption in drawn:
        page.figure(figure, caption)


def _method(page: Page, result: Mapping[str, Any]) -> None:
    draws, seed, bins = result["bootstrap"], result["seed"], result["bins"]
    page.section("How this was measured").facts(
        {
            "Model's probability": "sigmoid of the margin, the difference of the two rewards",
            "What people say": "the share of votes or the stated probability; else 1 for the better, 1/2 for a tie",
            "Intervals": f"95%, percentile bootstrap of {draws:,} draws of whole prompts, centred, seed {seed}",
            "ECE": f"{bins} bins of equal width over [0, 1], both directions of every comparison",
            "ECE, bins of equal mass": _interval(result["overall"], "ece_mass"),
            "Squared calibration error, without what noise adds": _interval(result["overall"], "ece_squared", ".4f"),
            "Share of people who agree with the model": _interval(result["overall"], "agreement"),
        }
    )


def _style(metric: str) -> str:
    return ".1%" if metric in SHARES else ".3f"


def _interval(numbers: Mapping[str, Any], metric: str, style: str | None = None) -> str:
    value, low, high = (numbers[metric][end] for end in ("value", "low", "high"))
    return with_ends(value, low, high, style or _style(metric))


def _tile(numbers: Mapping[str, Any], label: str, metric: str, note: str) -> tuple[str, str, str]:
    value, low, high = (numbers[metric][end] for end in ("value", "low", "high"))
    span = ends(low, high, _style(metric))
    return label, f"{value:{_style(metric)}}", f"95% interval {span}. {note}" if span else note
