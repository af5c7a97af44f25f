"""The section of docs/evidence.md on models of raters; every number and verdict comes from the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from evidence.raters import KNOWN, LABELS, ONE, RATES, UNHEARD
from evidence.truth.told import interval, listed, nats, points

Cell = Mapping[str, Any]

ABOUT = """Held-out votes of single people, and of LLM judges and attributes as if they were people: does a model of
raters say more of them than one reward? The frozen all-MiniLM-L6-v2 under a small head, trained on single votes with
the same target (the vote) and price (logistic), so that the conditions differ in the score alone; one reward with MMPO
reads the share of votes at gamma 2.2. Each seed holds out a quarter of the debates, documents, stories or prompts, and
a third of the raters who gave enough votes; a fifth of the other topics says when to stop. A grader of lists has voted
for the higher grade of each pair, a tie is half a vote to each side. *lower* and *higher* mean that the intervals of
the NLL over seeds and over topics both leave zero out. A frozen encoder lets a head find only those tastes that its
features show."""

NAMES = {
    "one reward, reliability": "trusts each rater as far as one reward agrees (the target of LCPO), and takes their "
    "next vote for right as often",
    "mixture of 5, for all": "five rewards with shares that are the same for everybody (MiCRo without context)",
    "a reward for each": "`mmpo_voices`: an output for each voice; anybody's is the mean",
    "PAL-A": "`pal_a`: an ideal point for each voice between some prototypes",
    "PAL-B": "`pal_b`: a direction for each voice between some prototypes that depend on the prompt",
    "groups": "`maxmin_reward`: hidden groups of voices, with a reward for each group",
    "mixture of 5, by prompt": "`micro`: five rewards that the prompt weighs",
    "mixture of 5, by person": "`micro_people`: the same, weighed by what a voice said before",
    "skew-symmetric": "`gpm`, tau 1: a preference that need not be a line, one for all",
}


def section(result: Mapping[str, Any]) -> list[str]:
    """All of it, but on what machine."""
    sets, planted = result["sets"], {"arguments, every second voter turned round": result["planted"]}
    named = "; ".join(f"*{name}*: {about}" for name, about in NAMES.items())
    other = listed([f"{name} ({rate:g})" for name, rate in RATES.items()])
    return [
        "## One reward, or a model of raters",
        "",
        ABOUT.replace("\n", " "),
        "",
        f"{named}. A voice with {result['named from']} training votes is told apart, the others are anybody. Learning "
        f"rates were chosen on other seeds: 1e-3, but for {other}.",
        "",
        *(f"- {line}" for line in answers(result)),
        "",
        "What there is to learn from; *two agree*: how often two voices that decided about one pair decide alike, "
        "*one reward agrees*: how often one reward sides with a decided vote of a known voice.",
        "",
        *budget(sets),
        "",
        *compared(
            sets | planted,
            KNOWN,
            "nll",
            nats,
            "NLL of known voices' votes less that of one reward (first row: its own)",
        ),
        *compared(sets, KNOWN, "accuracy", points, "Points of accuracy on their decided votes, likewise"),
        *compared(sets, KNOWN, "ece", points, "Points of ECE, likewise"),
        *compared(sets, KNOWN, "worst accuracy", points, "Points of accuracy for the worst voice, likewise"),
        *compared(sets, UNHEARD, "nll", nats, "NLL of votes of voices that training never heard, likewise"),
        *placing(sets | planted),
    ]


# ---------------------------------------------------------------------------------------------- in words


def answer(result: Mapping[str, Any]) -> str:
    """The first screen's line."""
    told = _judged(result["sets"], result["tell raters apart"], KNOWN)
    control = [row["accuracy"]["mean"] for row in rows(result["planted"], KNOWN)]
    return (
        f"**Does modelling raters beat one reward?** {_how(told)}: on held-out votes of known people, judges and "
        f"attributes ({len(result['sets'])} data sets) the NLL is {_counted(told)} comparisons. With the votes of "
        f"every second person turned round the same models order {points(min(control))} to {points(max(control))} "
        "points better."
    )


def _how(judged: Mapping[str, Sequence[str]]) -> str:
    lower, total = len(judged["lower"]), sum(map(len, judged.values()))
    return "Not here" if not lower else "Seldom" if 4 * lower < total else "Often" if 2 * lower < total else "Mostly"


def answers(result: Mapping[str, Any]) -> list[str]:
    sets, apart = result["sets"], result["tell raters apart"]
    return [
        _known(sets, apart, len(result["seeds"])),
        _people(sets, apart),
        _planted(result["planted"]),
        _unheard(sets, apart),
        _placed(sets),
        _budget(sets),
        *([_cyclic(result["cycles"])] if result["cycles"] else []),
    ]


def rows(found: Mapping[str, Any], which: str, base: str = ONE) -> Iterator[Cell]:
    """The differences of some votes to one reward, or of a method to itself."""
    for row in found["minus one reward"]:
        if row["set"] == which and row["less"].startswith(f"{ONE}, " if base == ONE else f"{row['method']}, "):
            yield row


def _judged(
    sets: Mapping[str, Any], methods: Sequence[str] | None, which: str, base: str = ONE
) -> dict[str, list[str]]:
    """METHOD on DATA (difference), by verdict; of these methods, or of all."""
    out: dict[str, list[str]] = {"lower": [], "higher": [], "unclear": []}
    for name, found in sets.items():
        for row in rows(found, which, base):
            if methods is None or row["method"] in methods:
                out[row["verdict"]].append(f"{row['method']} on {name} ({nats(row['nll']['mean'])})")
    return out


def _counted(judged: Mapping[str, Sequence[str]]) -> str:
    total = sum(map(len, judged.values()))
    return f"lower in {len(judged['lower'])}, higher in {len(judged['higher'])} and unclear in the rest of {total}"


def _known(sets: Mapping[str, Any], apart: Sequence[str], seeds: int) -> str:
    told, others = _judged(sets, apart, KNOWN), _judged(sets, [m for m in _methods(sets) if m not in apart], KNOWN)
    total = sum(map(len, told.values()))
    return (
        f"{_how(told)}. On held-out votes of known raters, judges and attributes ({len(sets)} sets of real data, "
        f"{seeds} seeds), the NLL of the models that tell them apart, less that of one reward, is {_counted(told)} "
        f"comparisons, of which chance alone would make about {total / 40:.0f} lower. Lower: "
        f"{listed(told['lower'])}; higher: {listed(told['higher'])}. Of the models "
        f"that are alike for all it is {_counted(others)}; lower: {listed(others['lower'])}."
    )


def _methods(sets: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["method"] for found in sets.values() for row in rows(found, KNOWN)))


def _people(sets: Mapping[str, Any], apart: Sequence[str]) -> str:
    found = sets["arguments"]
    cells = list(rows(found, KNOWN))

    def best(names: Sequence[str]) -> str:
        row = min((c for c in cells if c["method"] in names), key=lambda c: float(c["nll"]["mean"]))
        return (
            f"{row['method']}: NLL {interval(row['nll'], nats)} over seeds, {interval(row['nll, over groups'], nats)} "
            f"over debates, {interval(row['nll, over raters'], nats)} over raters, accuracy "
            f"{interval(row['accuracy'], points)} points, for the worst rater {interval(row['worst accuracy'], points)}"
        )

    return (
        f"On the largest set (arguments, {found['data']['raters']:,} people) the best model that tells raters apart is "
        f"{best(apart)}. The best that is alike for all: {best([m for m in _methods(sets) if m not in apart])}."
    )


def _planted(found: Mapping[str, Any]) -> str:
    """What the same heads find where there is something to find."""

    def gains(which: str, base: str = ONE) -> str:
        return listed([f"{row['method']} {interval(row['accuracy'], points)}" for row in rows(found, which, base)])

    few, many = LABELS
    return (
        "Would these heads find groups if there were any? With the votes of every second voter of the arguments turned "
        f"round (three seeds), one reward sides with {_one(found, KNOWN)['accuracy']['mean']:.1%} of known voters' "
        f"votes. Points above that: {gains(KNOWN)}. Points that unseen voters gain when they are placed from "
        f"{few} votes: {gains(f'unseen, {few} votes', 'itself')}; from {many}: "
        f"{gains(f'unseen, {many} votes', 'itself')}."
    )


def _unheard(sets: Mapping[str, Any], apart: Sequence[str]) -> str:
    judged = _judged(sets, apart, UNHEARD)
    return (
        f"Of raters that training never heard, without a vote of theirs, it is {_counted(judged)}. "
        f"Lower: {listed(judged['lower'])}; higher: {listed(judged['higher'])}."
    )


def _placed(sets: Mapping[str, Any]) -> str:
    parts = []
    for labels in LABELS:
        judged = _judged(sets, None, f"unseen, {labels} votes", "itself")
        parts.append(
            f"{labels} votes, NLL less that without them: {_counted(judged)} (lower: {listed(judged['lower'])}; "
            f"higher: {listed(judged['higher'])})"
        )
    after = _judged(sets, None, f"unseen, {LABELS[-1]} votes")
    return (
        f"Placing such a rater as `mmpo adapt` does, from {'; from '.join(parts)}. Against one reward the NLL after "
        f"{LABELS[-1]} votes is {_counted(after)} (lower: {listed(after['lower'])})."
    )


def _budget(sets: Mapping[str, Any]) -> str:
    a = sets["arguments"]["data"]
    known = _one(sets["arguments"], KNOWN)["accuracy"]["mean"]
    return (
        f"What the people of the arguments gave decides what can be learned of them: {a['votes']:,} votes are "
        f"{a['labels']['mean']:.0f} a voter, {a['labels']['50%']:.0f} in the median; {a['told apart']:.0f} of "
        f"{a['raters']:,} have enough to be told apart, with {a['training labels of those']['median']:.0f} in the "
        f"median. Two voters who decide agree in {a['agreement of two']:.1%} of cases, and one reward agrees with them "
        f"in {known:.1%}."
    )


def _cyclic(found: Mapping[str, Any]) -> str:
    share, wrong, chance = found["cyclic_share"], found["least_wrong"], found["by_chance"]
    more = share["low"] > chance["at_most"]
    return (
        f"Are the arguments cyclic? Of {found['n_triples']:,} triples with three majorities {share['value']:.1%} "
        f"[{share['low']:.1%}, {share['high']:.1%}] run in a circle; as many votes of people who agree on a line would "
        f"show {chance['agree_on_a_line']:.1%}, coins {chance['coin']:.1%}. So there is "
        f"{'more than chance' if more else 'no sign'} of preferences that are not a line, though with a median of "
        f"{found['median_votes']:.0f} votes a pair any order contradicts at least {wrong['value']:.1%} of the "
        "majorities."
    )


# ---------------------------------------------------------------------------------------------- tables


def _one(found: Mapping[str, Any], which: str) -> Cell:
    return next(row for row in found[ONE] if row["set"] == which)


def budget(sets: Mapping[str, Any]) -> list[str]:
    lines = [
        "| data | | voices | votes | of a voice (median) | told apart | their training votes (median) | never heard "
        "| ties | two agree | one reward agrees |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in sets.items():
        d = found["data"]
        cells = [
            name,
            d["about"],
            f"{d['raters']:,} {d['voices']}",
            f"{d['votes']:,}",
            f"{d['labels']['50%']:,.0f}",
            f"{d['told apart']:.0f}",
            f"{d['training labels of those']['median']:,.0f}",
            f"{d['unseen']:.0f}",
            f"{d['ties']:.1%}",
            f"{d['agreement of two']:.1%}",
            f"{_one(found, KNOWN)['accuracy']['mean']:.1%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def compared(sets: Mapping[str, Any], which: str, metric: str, show: Callable[[float], str], title: str) -> list[str]:
    """One reward as it is, and the others less it; data sets are columns."""
    tables = {name: {row["method"]: row for row in rows(found, which)} for name, found in sets.items()}
    own = [f"{_one(found, which)[metric]['mean']:.3f}" for found in sets.values()]
    lines = [f"{title}:", "", *_head(sets), f"| {ONE} | " + " | ".join(own) + " |"]
    for method in next(iter(tables.values())):
        cells = [_cell(table.get(method), metric, show) for table in tables.values()]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _head(sets: Mapping[str, Any]) -> list[str]:
    return ["| | " + " | ".join(sets) + " |", "|---|" + "---|" * len(sets)]


def _cell(row: Cell | None, metric: str, show: Callable[[float], str]) -> str:
    if row is None:
        return ""
    told = f" *{row['verdict']}*" if metric == "nll" and row["verdict"] != "unclear" else ""
    return interval(row[metric], show) + told


def placing(sets: Mapping[str, Any]) -> list[str]:
    """What votes of an unseen rater add."""
    lines = ["NLL of unseen voices placed from their votes, less that of the same model without these votes:", ""]
    lines += _head(sets)
    for labels in LABELS:
        which = f"unseen, {labels} votes"
        tables = [{row["method"]: row for row in rows(found, which, "itself")} for found in sets.values()]
        for method in tables[0]:
            cells = [_cell(table.get(method), "nll", nats) for table in tables]
            lines.append(f"| {method}, {labels} votes | " + " | ".join(cells) + " |")
    return [*lines, ""]
