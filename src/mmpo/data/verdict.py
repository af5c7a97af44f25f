"""The data report in words: what is wrong, what to do next, and the main lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]

_CHOSEN = ("other split", "not drawn")
"""Reasons to leave a row out that the user chose."""

_BIAS = 0.6
"""A share of comparisons decided by length or position that is worth a warning, and its mirror image."""

_ENOUGH = 50
"""Fewer comparisons than this show no bias."""


def summary(report: Report) -> list[str]:
    """The main lines, in the order in which a reader needs them."""
    ledger, size = report["ledger"], report["size"]
    names = {"grades": "grades", "gaps": "a stated gap", "votes": "votes", "annotators": "named annotators"}
    kinds = ", ".join(f"{size[kind]:,} with {name}" for kind, name in names.items() if size[kind])
    lines = [
        f"{ledger['rows_in']:,} rows in, {ledger['rows_used']:,} used: {size['prompts']:,} prompts, "
        f"{size['responses']:,} different responses, {size['comparisons']:,} comparisons ({kinds})"
    ]
    told = ", ".join(f"{n:,} {what}" for what, n in report["beside"].items() if n)
    lines += [f"besides: {told}"] if told else []
    lines += [f"warning: {problem}" for problem in report["problems"]] or ["nothing wrong was found"]
    chosen = [f"{_rows(d['count'])} left out: {r}" for r, d in ledger["dropped"].items() if r.startswith(_CHOSEN)]
    lines += [f"note: {note}" for note in (*chosen, *ledger["notes"])]
    return [*lines, report["gamma"]["note"]] + [f"next: {step}" for step in report["next"]]


# ---------------------------------------------------------------------------------------------- what is wrong


def problems(report: Report) -> list[str]:
    """Everything that may spoil training, each in one line with its count."""
    return [
        *_dropped(report["ledger"]),
        *_unused(report["ledger"]),
        *_repeated(report["repeats"], report["merge"]),
        *_misleading(report),
        *_gamma(report),
        *_overlapping(report["overlap"]),
        *_cut(report["truncation"]),
    ]


def _dropped(ledger: Report) -> list[str]:
    return [
        f"{d['count']:,} of {_rows(ledger['rows_in'])} dropped: {reason} ({_some(d['rows'], d['count'])})"
        for reason, d in ledger["dropped"].items()
        if not reason.startswith(_CHOSEN)
    ]


def _unused(ledger: Report) -> list[str]:
    columns = ledger["unused_feedback"]
    return [f"not used, though it sounds like feedback: {', '.join(columns)}"] if columns else []


def _repeated(repeats: Report, merged: Report) -> list[str]:
    out = []
    same = repeats["identical_responses"]
    if same["count"]:
        lost = merged.get("comparisons of identical responses dropped", 0)
        out.append(
            f"one response stands twice in {_rows(same['count'])} ({_some(same['rows'], same['count'])}); "
            f"comparisons of a text with itself left out: {lost:,}"
        )
    if repeats["duplicate_rows"]:
        out.append(f"exact repeats of another row: {_rows(repeats['duplicate_rows'])}")
    apart = merged.get("graded data kept apart", 0)
    if apart:
        out.append(f"not merged, because the grades of one response differ between rows: {_rows(apart)}")
    return out


def _misleading(report: Report) -> list[str]:
    out = []
    length, position = report["length"], report["position"]
    if length["n"] >= _ENOUGH and not 1 - _BIAS <= length["longer_preferred"] <= _BIAS:
        out.append(
            f"the longer response is preferred in {length['longer_preferred']:.0%} of {length['n']:,} comparisons: a "
            "model can learn length for quality"
        )
    by_label = set(report["ledger"]["shapes"]) == {"preference pair"}
    if position["n"] >= _ENOUGH and not by_label and not 1 - _BIAS <= position["first_preferred"] <= _BIAS:
        out.append(
            f"the response that stands first is preferred in {position['first_preferred']:.0%} of {position['n']:,} "
            "comparisons: training here shuffles positions, other tools may learn them"
        )
    return out


def _gamma(report: Report) -> list[str]:
    gamma, targets = report["gamma"], report["targets"]
    if targets is None:
        return [gamma["note"]]
    if gamma["heavy_tailed"] or targets["saturated_share"] > 0.5:
        return [
            f"{targets['saturated_share']:.0%} of the targets are above 0.99 at gamma {gamma['gamma']:.3g}: they are "
            "saturated, as good as hard labels"
        ]
    return []


def _overlapping(overlap: Report | None) -> list[str]:
    if overlap is None or not overlap["shared"]:
        return []
    return [
        f"{overlap['shared']:,} of {overlap['prompts']:,} evaluation prompts are in the training data too "
        f"({_some(overlap['rows'], overlap['shared'])})"
    ]


def _cut(cuts: Report | None) -> list[str]:
    if cuts is None:
        return []
    at = f"at max_length {cuts['max_length']}"
    lines = (
        (cuts["prompts_cut"], f"{cuts['prompts_cut']:,} of {cuts['prompts']:,} prompts lose their beginning {at}"),
        (cuts["responses_cut"], f"{cuts['responses_cut']:,} of {cuts['responses']:,} responses lose their end {at}"),
    )
    dropped = [
        f"{d['count']:,} prompts cannot be used {at}: {reason} ({_some(d['ids'], d['count'])})"
        for reason, d in cuts["dropped"].items()
    ]
    return [line for count, line in lines if count] + dropped


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n:,} rows"


def _some(rows: list[str], count: int) -> str:
    """The first rows by file name and number."""
    return ", ".join(row.rsplit("/", 1)[-1] for row in rows[:3]) + (", ..." if count > 3 else "")


# ---------------------------------------------------------------------------------------------- what to do next


def next_steps(report: Report) -> list[str]:
    """What the reader should do, the most urgent first."""
    out = []
    gamma, size = report["gamma"], report["size"]
    if _dropped(report["ledger"]):
        out.append("mend the dropped rows, or train with on_bad_row: drop")
    if report["overlap"] and report["overlap"]["shared"]:
        out.append("take the shared prompts out of one side before you believe an evaluation")
    # Where no prompt can be used at all, no length would mend it.
    if _cut(report["truncation"]) and report["truncation"]["prompt_tokens"]:
        whole = report["truncation"]["prompt_tokens"]["99"] + report["truncation"]["response_tokens"]["99"]
        out.append(f"raise max_length; the 99th percentiles of prompt and response add up to {whole:.0f} tokens")
    return [*out, _method(gamma, size), *_beside(report["beside"])]


READERS = {
    "rationales": ("rationale_dpo",),
    "rollouts": ("hypo", "adpa", "meta_rm"),
    "variants": ("spo",),
    "marked answers": ("rrpo",),
    "answers with own prompts": ("dove", "mapl"),
    "contrasts": ("mapl", "mapl_reward"),
    "named annotators": ("lcpo",),
}
"""The methods that read what stands beside answers and comparisons."""


def _beside(found: Report) -> list[str]:
    """Which methods read what the usual ones leave out."""
    return [
        f"the {what} are read by {', '.join(readers)}; other methods do without them"
        for what, readers in READERS.items()
        if found[what] > (what == "named annotators")
    ]


def _method(gamma: Report, size: Report) -> str:
    """The method that these data allow."""
    if "gamma" not in gamma:
        return "train with a method that needs no gamma: dpo, odpo (which takes an offset) or bradley_terry"
    if gamma["kind"] == "convention" and not size["grades"] + size["gaps"]:
        return "train with dpo or bradley_terry: bare labels carry no grades for a soft target"
    if gamma["heavy_tailed"]:
        return "bring the grades to another scale, as said under gamma, before you train with mmpo or mmpo_reward"
    value = f"gamma: {gamma['gamma']:.3g}"
    return f"train with method: {{name: mmpo, {value}}}, or for a reward model {{name: mmpo_reward, {value}}}"
