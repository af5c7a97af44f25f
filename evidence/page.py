"""Write docs/evidence.md and its pictures from the results that the other runs left in docs/evidence/."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from evidence import raters_page
from evidence.common import RESULTS, ROOT, table
from evidence.truth.page import section as truth
from evidence.truth.told import answer, conditions, interval, listed, nats, points

METRICS = ("accuracy", "nll", "ece", "brier", "overconfidence")
OURS = ("mmpo auto", "mmpo x1", "mmpo")
"""What margin matching with a fitted gamma is called in the studies; the first that is there."""

DRAWN = ("hard", "dpo", "smoothing", "margin", "soft", *OURS)
"""The methods in the pictures; the tables have all."""

INTRODUCTION = """# Evidence

Do graded margins make better models than hard labels? Measured in a [generated world](#known-truth) whose truth is
known, and on real feedback. Intervals are 95% Student intervals over the seeds, differences are taken seed by seed, and
every number and verdict on this page is filled in from the runs: `make evidence` measures all of them again.
"""

STUDIES: dict[str, tuple[str, str]] = {
    "ukp": (
        "Human votes",
        "Reward models on 16,927 pairs of arguments with five votes each (UKPConvArg1). all-MiniLM-L6-v2 is "
        "fine-tuned on twelve debates and measured against the votes on the four debates held out. Hard "
        "Bradley-Terry against MMPO on the vote margin 2 p - 1 with gamma = 2, and with the gamma fitted to the "
        "training votes (auto). One epoch shows every comparison once and reads every argument once.",
    ),
    "ukp_frozen": (
        "Human votes on ten splits",
        "The same pairs of arguments, a small head on the frozen encoder instead of fine-tuning, so that ten seeds can "
        "each hold out another four of the sixteen debates. smoothing knows how often people go against most; "
        "robust takes a tenth of the labels for flipped; ipo asks every pair to lead by one logit; margin is the "
        "additive offset, one logit for a median gap; soft is told the votes themselves; mmpo x1 is MMPO at the gamma "
        "fitted to its training votes, and the others at multiples of it. The hyper-parameters were chosen on other "
        "seeds. Training sets overlap from seed to seed, which makes the intervals a little too narrow.",
    ),
    "temperature": (
        "An over-trained model, mended afterwards",
        "The heads of the ten splits after 50 epochs. Of the four debates held out, two at a time fit a temperature or "
        "an isotonic curve for the other two, so that no comparison is measured by a map that has seen its debate. "
        "ece_by_chance, in the file, is what a perfectly calibrated model would show on the same comparisons.",
    ),
    "pandalm": (
        "Three votes on few data",
        "840 pairs of answers of small models to 149 instructions (PandaLM's test set); 87% have unanimous votes. "
        "A head on the frozen encoder; each of twenty seeds holds out another quarter of the instructions. Methods as "
        "with human votes.",
    ),
    "experts": (
        "Translators' grades, where nothing is learned",
        "377 Chinese texts with up to ten English translations each, graded in MQM error points by three professionals "
        "(generalMT 2023). Two of them grade for training and the third one's order on held-out documents is the "
        "truth; who that is turns with the seed. A head on the frozen encoder, with little Chinese. What it learns "
        "does not carry over to other documents: every method stays at the accuracy of a coin. So this shows what each "
        "does where there is nothing to know but noise to learn by heart. Methods as with human votes, gamma fitted to "
        "one rater given the other.",
    ),
    "alpaca": (
        "A judge's probabilities",
        "Eight models against one reference answer on each of 612 prompts, with the probabilities of a judge that is "
        "nearly always sure (AlpacaEval). A head on the frozen encoder; each of ten seeds holds out another quarter of "
        "the prompts. In the rows called lists every answer is graded with the logit of its probability of beating the "
        "reference, and all answers of a prompt are compared. Measured against the observed probabilities.",
    ),
    "judges": (
        "Graded lists",
        "Reward models on lists of answers graded with an LLM judge's probability of beating a reference "
        "(AlpacaEval, 100 prompts); gamma is fitted to the judge's probabilities. Measured on held-out "
        "prompts against the observed probabilities of other pairs.",
    ),
    "policy": (
        "A policy, end to end",
        "A decoder of about one million parameters from a config, trained as a language model and then tuned "
        "on judged pairs of answers to 488 prompts (AlpacaEval). Its implicit reward is measured on held-out prompts "
        "against the judge's probabilities. A model this small writes no sense; what is tested is the road "
        "and the calibration.",
    ),
}
"""File in docs/evidence/ -> title, and what was done; a file that is not there has no section."""


def save(name: str, figure: Figure) -> str:
    """Write docs/evidence/NAME.svg, the same bytes for the same figure, and return the Markdown that shows it."""
    with mpl.rc_context({"svg.hashsalt": "mmpo"}):
        figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
    return f"![{name}](evidence/{name}.svg)"


def picture(means: Sequence[Mapping[str, Any]]) -> Figure:
    """ECE and NLL against epochs, one line a method with its interval."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("ece", "nll"), strict=True):
        for method in (m for m in dict.fromkeys(row["method"] for row in means) if m in DRAWN):
            rows = [row for row in means if row["method"] == method]
            epochs = [row["epochs"] for row in rows]
            values = [row[metric]["mean"] for row in rows]
            (line,) = axes.plot(epochs, values, marker="o", label=method)
            low, high = ([row[metric][end] for row in rows] for end in ("low", "high"))
            axes.fill_between(epochs, low, high, alpha=0.15, color=line.get_color())
        axes.set(xlabel="epochs", ylabel=metric.upper())
        axes.legend(frameon=False)
    return figure


def held_out(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row.get("set", "held_out") == "held_out"]


def longest(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of the longest training."""
    most = max(row["epochs"] for row in rows)
    return [row for row in rows if row["epochs"] == most]


def section(name: str, result: Mapping[str, Any]) -> list[str]:
    """One study on real data: its picture over epochs, and its tables after the longest training."""
    title, about = STUDIES[name]
    means, differences = held_out(result["means"]), longest(held_out(result["minus hard"]))
    seeds = sorted({run["seed"] for run in result["runs"]})
    lines = [f"## {title}", "", about, ""]
    if "gamma" in result:
        lines += [f"gamma = {result['gamma']['gamma']:.3g}: {result['gamma']['note']}", ""]
    lines += [save(name, picture(means)), "", table(longest(means), ("method", "epochs"), METRICS), ""]
    lines += [
        f"Difference to hard labels, {len(seeds)} seeds:",
        "",
        table(differences, ("method", "epochs"), METRICS),
        "",
    ]
    if "claims" in result:
        lines += [
            "| claim | verdict |",
            "|---|---|",
            *(f"| {c['claim']} | {c['verdict']} |" for c in result["claims"]),
            "",
        ]
    return [*lines, *measured(name, result)]


def measured(name: str, result: Mapping[str, Any]) -> list[str]:
    """On what it was measured, and where the rest stands."""
    where, versions = result["machine"], result["machine"]["versions"]
    return [
        f"Measured with `make evidence` on {where['device']}, {where['cores']} cores, torch {versions['torch']}, "
        f"transformers {versions['transformers']}; all numbers in [evidence/{name}.json](evidence/{name}.json).",
        "",
    ]


REAL = ("ukp_frozen", "pandalm", "alpaca", "ukp", "judges", "policy")
"""The studies on real data in which something is learned, each data set and model once."""

TOLD = ("ukp_frozen", "pandalm", "alpaca")
"""Those of them with verdicts on the same claims."""


def at_a_glance(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What each study on real data says of margins, one line each."""
    lines = []
    for name in (name for name in REAL if name in found):
        rows = longest(held_out(found[name]["minus hard"]))
        ours = next((row for wanted in OURS for row in rows if row["method"] == wanted), None)
        if ours is not None:
            numbers = interval(ours["nll"], nats), interval(ours["ece"], points), interval(ours["accuracy"], points)
            lines.append(f"| {STUDIES[name][0]} | " + " | ".join(numbers) + " |")
    heads = ["On real data after the longest training, margin matching less hard labels:", ""]
    heads += ["| data | NLL | points of ECE | points of accuracy |", "|---|---|---|---|"]
    return [*heads, *lines, ""] if lines else []


def on_real_data(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the studies on real data say of the questions of the first screen."""

    def judged(start: str) -> str:
        by_verdict: dict[str, list[str]] = {}
        for name in (name for name in TOLD if name in found):
            claim = next(c for c in found[name]["claims"] if c["claim"].startswith(start))
            by_verdict.setdefault(claim["verdict"], []).append(STUDIES[name][0].lower())
        return "; ".join(f"{verdict} on {listed(names)}" for verdict, names in by_verdict.items())

    best, last = "each at its best number of epochs, NLL is lower (mmpo x1 - ", "after 50 epochs ECE, NLL and Brier "
    lines = [
        f"**On real data?** Stopped at its best, MMPO has a lower NLL than hard labels: {judged(best + 'hard')}. After "
        f"50 epochs ECE, NLL and Brier score are lower: {judged(last + 'score are lower (mmpo x1 - hard')}.",
        "**Do simpler mends do as well?** After 50 epochs MMPO is better calibrated than label smoothing at the rate "
        f"the votes show: {judged(last + 'score are lower (mmpo x1 - smoothing')}.",
    ]
    if "temperature" in found:
        (claim,) = (c for c in found["temperature"]["claims"] if c["claim"].startswith("after a temperature each"))
        said = f"{claim['verdict']}, {interval(claim['numbers']['nll'], nats)}"
        lines[-1] += (
            f" With a temperature on both, fitted on other prompts, its NLL is lower than with hard labels: {said}."
        )
    return lines


CLAIMED: dict[str, tuple[str, str]] = {
    "bandit": (
        "Own draws and given draws",
        "One hundred actions, of which the reference covers some; the reward peaks far from them or near "
        "(arXiv 2404.14367). 10,000 rewards are asked for, ten a state and round, of actions that the policy draws "
        "itself or that the reference drew; ten seeds. At one step a round imitation has not learned yet, so that "
        "more steps first help and then harm.",
    ),
    "bestof": (
        "A policy, or a reward model that picks",
        "The same ratings train a policy, or a reward model that picks the best of n answers of the reference "
        "(the question of arXiv 2406.09279 at a small scale). The world of `mmpo demo` with true utility from 0 to 10, "
        "five seeds, three epochs, three betas; the distance of the best of n is log n - (n - 1) / n.",
    ),
}
"""Studies that are claims with a picture: file -> title, and what was done."""


def claimed(name: str, result: Mapping[str, Any]) -> list[str]:
    title, about = CLAIMED[name]
    rows = []
    for claim in result["claims"]:
        numbers = "; ".join(f"{key}: {interval(value, decimals)}" for key, value in claim["numbers"].items())
        rows.append(f"| {claim['claim']} | {numbers} | {claim['verdict']} |")
    lines = [f"## {title}", "", about, "", f"![{name}](evidence/{name}.svg)", ""]
    return [*lines, "| claim | measured | verdict |", "|---|---|---|", *rows, "", *measured(name, result)]


def decimals(value: float) -> str:
    return f"{value:+.2f}"


def mended(result: Mapping[str, Any]) -> list[str]:
    """The fine-tuned model whose probabilities were mended afterwards."""
    rows = [
        [name, *(f"{n[m]['value']:.3f} [{n[m]['low']:.3f}, {n[m]['high']:.3f}]" for m in ("ece", "nll", "accuracy"))]
        for name, n in result["numbers"].items()
    ]
    about = f"{result['about']}: {result['pairs']:,} pairs, {result['recipe']['num_train_epochs']} epochs, one run."
    heads = ["| | ECE | NLL | accuracy |", "|---|---|---|---|"]
    return [about, "", *heads, *("| " + " | ".join(row) + " |" for row in rows), ""]


def main() -> None:
    stored = {name: RESULTS / f"{name}.json" for name in (*STUDIES, *CLAIMED, "truth", "raters")}
    found = {name: json.loads(path.read_text()) for name, path in stored.items() if path.is_file()}
    raters = found.pop("raters", None)
    known, claims = found.pop("truth", None), {name: found.pop(name) for name in CLAIMED if name in found}
    short = [*(answer(known) if known else []), *on_real_data(found)]
    short += [raters_page.answer(raters)] if raters else []
    lines = [INTRODUCTION, *(f"- {line}" for line in short), "", *at_a_glance(found)]
    lines += [f"The generated conditions: {conditions(known)}.", ""] if known else []
    lines += [*truth(known, save), *measured("truth", known)] if known else []
    for name, result in found.items():
        lines += section(name, result)
        lines += mended(result["fine-tuned"]) if "fine-tuned" in result else []
    lines += [*raters_page.section(raters), *measured("raters", raters)] if raters else []
    lines += [line for name, result in claims.items() for line in claimed(name, result)]
    (ROOT / "docs" / "evidence.md").write_text("\n".join(lines).rstrip() + "\n")
