"""The demo's report for people, and its short table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo.demo.task import BEST, WEIGHTS
from mmpo.evaluate import reliability
from mmpo.report import Page, figures

if TYPE_CHECKING:
    from mmpo.demo.run import Result

Report = Mapping[str, Any]
METRICS = {"accuracy": "accuracy", "ece": "ECE", "nll": "NLL", "brier": "Brier"}
PATH = {"utility": "true utility", "kl": "KL to the reference"}


def table(report: Report) -> str:
    """The main numbers as lines of text."""
    watched = report["effort"]["watched"]
    first, last = watched[0], watched[-1]
    lines = [("", f"utility, epoch {first}", f"utility, epoch {last}", f"KL, epoch {last}", "accuracy", "ECE")]
    start = _spread(report["reference"]["utility"])
    lines.append(("reference", start, start, "0", "", ""))
    for model in report["models"]:
        points = model["points"]
        shown = ((0, "utility"), (-1, "utility"), (-1, "kl")) if points else ()
        path = [_spread(points[n][key]) for n, key in shown] or [""] * 3
        lines.append((model["name"], *path, *(_cell(model["truth"][metric]) for metric in ("accuracy", "ece"))))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(rows)


def write_page(report: Report, results: Sequence[Result], path: Path) -> None:
    """Write the report; ``results`` hold the comparisons and logs that its pictures are drawn from."""
    page = Page(
        "Matching margins on a world with known truth",
        "The same noisy ratings, learned as hard labels (DPO, Bradley-Terry) and as graded targets (MMPO), measured "
        "against what the answers are truly worth.",
    )
    _in_short(page, report)
    _agreement(page, report, results)
    _policies(page, report)
    _gamma(page, report["gamma"])
    _training(page, results)
    _samples(page, report)
    _world(page, report)
    page.write(path)


def _in_short(page: Page, report: Report) -> None:
    hard, soft = report["models"][-2:]
    page.section("What came out", f"After {report['effort']['epochs']} epochs, on held-out prompts.").numbers(
        [
            (f"{METRICS[metric]}, {model['name']}", f"{model['truth'][metric]['value']:.3f}", note)
            for metric, note in (
                ("ece", "Mean distance of the model's probability from the true one; 0 is best."),
                ("accuracy", "How often it prefers what most raters prefer."),
            )
            for model in (soft, hard)
        ]
    )
    page.table(
        ["compared", "measure", "hard labels", "MMPO", "outcome"],
        [
            [row["compared"], row["measure"], _cell(row["hard"]), _cell(row["mmpo"]), row["outcome"]]
            for row in report["contrasts"]
        ],
        caption="In brackets: 95% intervals; a difference counts where they do not overlap.",
    )
    page.text(
        "The intervals say how sure the measurement on the held-out prompts is. Each method was trained once, so they "
        "do not say how another seed would fall: run the demo with another seed to see."
    )


def contrasts(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each hard method against its margin-matching twin, measure by measure, whoever wins; the last pair comes first.

    A difference counts where the 95% intervals do not overlap.
    """
    found = []
    for hard, soft in reversed(list(zip(models[::2], models[1::2], strict=True))):
        pair = f"{hard['name']}, {soft['name']}"
        for metric, sign in (("accuracy", 1), ("ece", -1), ("nll", -1)):
            found.append(_contrast(pair, METRICS[metric], hard["truth"][metric], soft["truth"][metric], sign, "better"))
        for key, sign, word in (("utility", 1, "better"), ("kl", -1, "nearer")):
            if soft["points"]:
                ends = hard["points"][-1][key], soft["points"][-1][key]
                found.append(_contrast(pair, PATH[key], *ends, sign, word))
    return found


def _contrast(
    pair: str, measure: str, hard: Mapping[str, float], soft: Mapping[str, float], sign: int, word: str
) -> dict[str, Any]:
    """``sign`` is 1 where more wins, -1 where less does, and ``word`` says what the winner is."""
    apart = soft["low"] > hard["high"] or soft["high"] < hard["low"]
    leader = "MMPO" if sign * (soft["value"] - hard["value"]) > 0 else "hard labels"
    return {
        "compared": pair,
        "measure": measure,
        **{who: {end: at[end] for end in ("value", "low", "high")} for who, at in (("hard", hard), ("mmpo", soft))},
        "outcome": f"{leader} {word}" if apart else "no clear difference",
    }


def _agreement(page: Page, report: Report, results: Sequence[Result]) -> None:
    page.section(
        "Can their probabilities be believed?",
        "On the dashed line a model that says 80% is right: 80% of raters agree. A policy's probability comes from its "
        "implicit reward, beta times the log-ratio to the reference.",
    )
    for pair in (results[-2:], results[-4:-2]):
        curves = {result.trial.name: reliability(result.agreement.true) for result in pair}
        page.figure(
            figures.reliability(curves),
            f"True share of raters against the model's probability, on held-out pairs: {' and '.join(curves)}.",
        )
    for against, words in (("truth", "the true probabilities"), ("votes", "five votes a pair")):
        best = report["models"][0][against]["best_possible"]
        page.table(
            ["model", *METRICS.values()],
            [[model["name"], *(_cell(model[against][metric]) for metric in METRICS)] for model in report["models"]],
            caption=f"Held-out pairs against {words}. Best possible NLL {best['nll']:.3f}.",
        )


def _policies(page: Page, report: Report) -> None:
    start = report["reference"]
    paths = {model["name"]: [start, *model["points"]] for model in report["models"] if model["points"]}
    page.section(
        "What a policy gains, and what it costs",
        f"Answers drawn to held-out prompts at temperature 1. Their true utility is known, {BEST:g} at most; "
        f"the reference has {_spread(start['utility'])}. KL is the mean of log pi - log ref over them.",
    )
    page.figure(
        figures.frontier(
            {name: _series(points, "kl", "utility") for name, points in paths.items()},
            xlabel="KL to the reference, nats an answer",
            ylabel="true utility",
        ),
        "True utility against the distance from the reference, where all paths begin; one point for each measurement "
        "during training. Further up is better; further right at the same height is drift that buys nothing.",
    )
    page.figure(
        figures.curves(
            {name: _series(points, "epoch", "utility") for name, points in paths.items()},
            xlabel="epoch",
            ylabel="true utility",
        ),
        "True utility over the length of training.",
    )
    page.table(
        ["policy", "epoch", "true utility", "KL, nats"],
        [
            [name, p["epoch"], _spread(p["utility"]), _spread(p["kl"])]
            for name, points in paths.items()
            for p in points[1:]
        ],
    )


def _series(points: Sequence[Mapping[str, Any]], x: str, y: str) -> figures.Series:
    at = [point[x]["value"] if isinstance(point[x], Mapping) else point[x] for point in points]
    return figures.Series(at, *([point[y][end] for point in points] for end in ("value", "low", "high")))


def _gamma(page: Page, gamma: Report) -> None:
    page.section("How many logits a star is worth", "MMPO's gamma, found three ways. The first one was used.")
    names = {
        "fitted": "fitted to votes beside ratings, on a few prompts",
        "raters": "fitted to each rater's choices from the ratings of the others, without any vote",
        "truth": "the best there is: fitted to the true probabilities",
    }
    rows = [(words, gamma[key]) for key, words in names.items()]
    page.table(
        ["gamma", "value", "from", "to"],
        [[words, fit["gamma"], fit["low"], fit["high"]] for words, fit in rows],
        caption="From and to: 95% intervals.",
    )


def _training(page: Page, results: Sequence[Result]) -> None:
    page.section(
        "How training went", "Hard labels have their optimum at an infinite margin, graded targets at a finite one."
    )
    for pair in (results[-2:], results[-4:-2]):
        for key, words in (("rewards/margins", "margin of the better answer"), ("rewards/accuracies", "accuracy")):
            lines = {result.trial.name: _logged(result.history, key) for result in pair}
            page.figure(figures.curves(lines, ylabel=words), f"Mean {words} on the training data, over the steps.")


def _logged(history: Sequence[Mapping[str, Any]], key: str) -> figures.Series:
    rows = [row for row in history if key in row]
    return figures.Series([row["step"] for row in rows], [row[key] for row in rows])


def _samples(page: Page, report: Report) -> None:
    page.section("Answers side by side", "Drawn, not chosen: the first held-out prompts.").table(
        ["instruction", "by", "answer", "true utility"],
        [[row["prompt"], row["by"], row["answer"], round(row["utility"], 2)] for row in report["samples"]],
    )


def _world(page: Page, report: Report) -> None:
    sizes, effort = report["sizes"], report["effort"]
    page.section("The world").text(
        f"Instructions ask for a short list under conditions that can be checked. {sizes['writers']} writers of "
        "different care answered them, and a small model learned from all of these answers alike: the reference. "
        "Then people rated answers to other instructions, half by writers, half by the reference: "
        f"{sizes['ratings']} of {sizes['raters']} raters gave one to five stars to each. A rater sees the true utility "
        "through noise of their own and rounds it, so near-ties are often ranked wrongly, and clear wins hardly ever. "
        "The chance of a vote follows from the same noise, so true probabilities are known."
    )
    page.facts(
        {
            "True utility": " + ".join(f"{weight:g} {name}" for name, weight in WEIGHTS.items()),
            "Trained on": f"{sizes['trained']} prompts of {sizes['responses']} rated answers",
            "Measured on": f"{sizes['held_out']} other prompts, {effort['answers']} answers to each by every policy",
            "Seed": report["seed"],
            "Time": f"{report['seconds']:.0f} s",
        }
    )


def _spread(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:.2f} ± {interval['high'] - interval['value']:.2f}"


def _cell(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
