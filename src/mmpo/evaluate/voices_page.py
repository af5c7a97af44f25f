"""What many voices and cycles come to, as sections of a page and as lines of a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmpo.report import Page
from mmpo.report.numbers import in_line, with_ends

PLACES = {"annotators": "by_annotator", "attributes": "by_attribute", "subsets": "by_subset"}
"""Where the result of an evaluation holds the numbers of each kind of voice."""

STYLES = {"accuracy": ".1%", "nll": ".3f", "ece": ".3f", "brier": ".3f"}
LABELS = {"accuracy": "accuracy", "nll": "NLL", "ece": "ECE", "brier": "Brier"}
SHOWN = 10

_OVER = (
    "Every one of them counts alike. In brackets: 95% intervals. That of the worst allows for its having been chosen: "
    "the worst of many looks worse than it is."
)


def heard_in(result: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The numbers of each kind of voice of which one or more were measured, or pooled."""
    for place in PLACES.values():
        if result.get(place, {}).get("n_voices"):
            yield result[place]


def voices(page: Page, result: Mapping[str, Any]) -> None:
    """A section for each kind of voice, and one for the groups of a mixture."""
    for found in heard_in(result):
        kind = found["kind"]
        page.section(f"How well it serves each of {found['n_voices']:,} {kind}", _judged(found))
        if found["n_measured"]:
            page.table(*_over(found), caption=_OVER)
            page.table(*_each(found), caption=_caption(found))
        for line in [*worth(found), *left_out(found)]:
            page.text(line)
    if result.get("groups"):
        groups = result["groups"]
        page.section("Who goes together", f"{sum(groups['sizes'].values()):,} voices by their largest weight.")
        rows = [[name, size] for name, size in groups["sizes"].items()]
        page.table(["group", "voices"], rows, caption="The weights of each voice stand in report.json, under groups.")


def _judged(found: Mapping[str, Any]) -> str:
    n, own = found["n_voices"], found["n_own"]
    if not own:
        return "The model has one view for all of them, and is judged by it."
    rest = f"; of the other {n - own:,} by its view of anybody" if own < n else ""
    return f"The model is judged by its own view of {own:,} of them{rest}."


def _over(found: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    chance = found["by_chance"]
    rows = []
    for name, style in STYLES.items():
        worst = found["worst"][name]
        luck = chance["worst"].get(name)
        rows.append(
            [
                LABELS[name],
                _shown(found["mean"][name], style),
                _shown(worst, style),
                worst["voice"],
                "–" if luck is None else f"{luck:{style}}",
                _shown(found["spread"][name], style),
            ]
        )
    return ["", "mean", "worst", "whose", "worst by luck alone", "spread"], rows


def _each(found: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    rows = [
        [
            one["name"],
            one["n_comparisons"],
            one["n_prompts"],
            *(_shown(one[name], style) for name, style in STYLES.items()),
        ]
        for one in _ends(found["voices"])
    ]
    return ["voice", "comparisons", "prompts", *LABELS.values()], rows


def _ends(rows: Sequence[Any]) -> list[Any]:
    return [*rows] if len(rows) <= 2 * SHOWN else [*rows[:SHOWN], *rows[-SHOWN:]]


def _caption(found: Mapping[str, Any]) -> str:
    n = len(found["voices"])
    which = f"The {SHOWN} with the lowest and the {SHOWN} with the highest accuracy; all {n:,} stand in report.json. "
    return (which if n > 2 * SHOWN else "") + "In brackets: 95% intervals."


def worth(found: Mapping[str, Any]) -> list[str]:
    """What it is worth to know who speaks, where the model knows any."""
    gain = found["gain"]
    if gain is None:
        return []
    n, kind = gain["n_comparisons"], found["kind"]
    changes = (f"{LABELS[name]} by {_shown(gain[name], '+.4f')}" for name in ("accuracy", "nll"))
    return [f"Its own views of {kind} instead of anybody's change {', '.join(changes)} on {n:,} comparisons."]


def left_out(found: Mapping[str, Any]) -> list[str]:
    """What has no line of its own, one sentence each."""
    kind, out = found["kind"], []
    if pooled := found["pooled"]:
        out.append(
            f"{pooled['n_voices']:,} {kind} have fewer than {found['floor']} comparisons, {pooled['n_comparisons']:,} "
            f"in all, and count together: accuracy {_shown(pooled['accuracy'], '.1%')}."
        )
    if nameless := found["nameless"]:
        out.append(
            f"{nameless['n_comparisons']:,} comparisons name none of the {kind}: accuracy "
            f"{_shown(nameless['accuracy'], '.1%')}."
        )
    return out


def lines(result: Mapping[str, Any]) -> list[str]:
    """The main of it for the terminal."""
    out = []
    for found in heard_in(result):
        kind = found["kind"]
        if found["n_measured"]:
            mean, worst = found["mean"]["accuracy"], found["worst"]["accuracy"]
            luck = found["by_chance"]["worst"]["accuracy"]
            out.append(
                f"{found['n_measured']:,} {kind} with {found['floor']} comparisons or more: accuracy mean "
                f"{_line(mean)}, worst {_line(worst)} ({worst['voice']}; {luck:.4f} by luck alone)"
            )
        out += [*worth(found), *left_out(found)]
    if result.get("cycles"):
        out.append(in_words(result["cycles"]))
    return out


def cycles(page: Page, result: Mapping[str, Any]) -> None:
    """A section on how cyclic the data are, where three responses of a prompt were compared with each other."""
    found = result.get("cycles")
    if not found:
        return
    chance, exact = found["by_chance"], found["exact"]
    wrong = _shown(found["least_wrong"], ".2%")
    page.section("How far people are from a line", "Of the data alone: no model enters here.").text(in_words(found))
    page.facts(
        {
            "Pairs that people compared": found["n_comparisons"],
            "Votes on a pair, median": found["median_votes"],
            "Triples with a majority on each pair": found["n_triples"],
            "of them in a circle": _shown(found["cyclic_share"], ".2%"),
            "as many votes of people who agree on a line": f"{chance['agree_on_a_line']:.2%}, seldom over "
            f"{chance['at_most']:.2%}",
            "as many coins": f"{chance['coin']:.2%}",
            "Decided pairs that any order gets wrong": wrong
            if exact
            else f"at least {wrong}, at most {_shown(found['least_wrong_at_most'], '.2%')}",
            "NLL of the best scalar rewards above the entropy": _shown(found["least_excess_nll"], ".4f"),
        }
    )


def in_words(found: Mapping[str, Any]) -> str:
    """How cyclic data are, in one line."""
    share, chance = found["cyclic_share"], found["by_chance"]
    more = "more than" if share["value"] > chance["at_most"] else "no more than"
    return (
        f"cycles: {share['value']:.1%} of {found['n_triples']:,} triples, {more} as many votes make where people agree "
        f"on a line ({chance['agree_on_a_line']:.1%}); a scalar model gets at least "
        f"{found['least_wrong']['value']:.1%} of the decided pairs wrong, and its NLL stays "
        f"{found['least_excess_nll']['value']:.4f} or more above the best"
    )


def _shown(number: Mapping[str, Any], style: str) -> str:
    return with_ends(number["value"], number["low"], number["high"], style)


def _line(number: Mapping[str, Any]) -> str:
    return in_line(number["value"], number["low"], number["high"])
