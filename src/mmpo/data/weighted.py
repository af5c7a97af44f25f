"""Weights in the prompt: the same answers once for each weighting of what they were graded on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mmpo.data.answers import Place, in_front
from mmpo.data.attributes import weighted_sum
from mmpo.data.pairs import answers, graded_pairs, ties
from mmpo.data.read import read
from mmpo.data.rows import BadRow, number
from mmpo.data.source import Source
from mmpo.errors import UserError, nearest
from mmpo.types import Datum, Text

TEMPLATE = "What counts in your answer: {weights}."
"""How weights are asked for where nobody says."""

DRAWN = 4
"""How many weightings a prompt gets where nobody says."""


def weighted_prompt(
    prompt: Text, weights: Mapping[str, float], template: str = TEMPLATE, place: Place = "system"
) -> Text:
    """The prompt that asks for these weights, as "helpfulness 0.65, verbosity -0.4"; use it in training and after it.

    Plain text gets the request in a block of its own in front. Chat messages get it in the system message (in front of
    one that is there), or with ``place`` "user" in front of the first user turn.

    Raises:
        UserError: a template without ``{weights}``, or another place.
    """
    if "{weights}" not in template:
        raise UserError(
            f"template is {template!r} and has no place for the weights; write {{weights}} where they stand"
        )
    told = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
    return in_front(prompt, template.replace("{weights}", told), place)


def add_weights(
    data: Iterable[Datum],
    weights: int | Sequence[Mapping[str, float]] = DRAWN,
    template: str = TEMPLATE,
    place: Place = "system",
    seed: int | None = None,
) -> tuple[list[Datum], dict[str, int]]:
    """One datum for each weighting w, whose prompt states w and whose grades are sum_a w_a q_a.

    A policy trained on them by any graded method can be asked for any trade-off. Attributes should be on one scale, or
    the weights weigh their units as well.

    Args:
        data: data with attributes; of others nothing can be made.
        weights: weightings that every datum gets; or how many to draw for each, uniformly from the simplex over its
            attributes and in hundredths, so that prompt and grades agree.
        template: how weights are asked for, with {weights} where they stand.
        place: where chat messages hold them, see ``weighted_prompt``.
        seed: of what is drawn, 0 by default.

    Returns:
        The data and the counts "data in", "data out", "comparisons that tie under their weights" (kept, p = 1/2),
        "answers that lack an attribute left ungraded", "weightings with fewer than two graded answers skipped",
        "statements about pairs dropped" (votes, gaps and contrasts speak of no weights), and likewise "grades of
        annotators dropped".

    Raises:
        UserError: an attribute that no datum has, no attributes at all, or a seed where nothing is drawn.
    """
    if not isinstance(weights, int) and seed is not None:
        raise UserError("seed is for weights that are drawn, and these are given; leave it out")
    weighted_prompt("", {}, template, place)  # a wrong option before any datum
    data = list(data)
    _check(data, weights)
    draw, counts = random.Random(seed or 0), Counter[str]({"data in": len(data)})
    out: list[Datum] = []
    for d in data:
        names = sorted(d.attributes)
        wanted = [_drawn(names, draw) for _ in range(weights)] if isinstance(weights, int) else weights
        made = [_towards(d, n, vector, template, place) for n, vector in enumerate(wanted, 1)]
        kept = [one for one in made if graded_pairs(one)]
        counts["weightings with fewer than two graded answers skipped"] += len(made) - len(kept)
        ungraded = sum((one.grades or ())[i] is None for one in kept for i in answers(one))
        counts["answers that lack an attribute left ungraded"] += ungraded
        counts["comparisons that tie under their weights"] += sum(map(ties, kept))
        counts["statements about pairs dropped"] += len(d.judgements) + len(d.contrasts)
        counts["grades of annotators dropped"] += len(d.annotator_grades)
        out += kept
    if not out:
        raise UserError("no two answers to a prompt have all attributes of a weighting; name fewer attributes")
    counts["data out"] = len(out)
    return out, dict(counts)


def weightings(path: str) -> list[dict[str, float]]:
    """The weightings in a file of any kind that data come in, a row each: {attribute: weight}.

    Raises UserError for a row that is none.
    """
    out = []
    for n, row in read(Source(path)):
        if isinstance(row, BadRow):
            raise UserError(f"{path}:{n}: {row}")
        try:
            found = {name: number(value, name) for name, value in row.items() if value is not None}
        except BadRow as bad:
            raise UserError(f"{path}:{n}: {bad}") from bad
        if not found:
            raise UserError(f"{path}:{n}: has no weight; give {{attribute: weight}}")
        out.append(found)
    if not out:
        raise UserError(f"{path}: holds no rows; give at least one weighting")
    return out


def _check(data: Sequence[Datum], weights: int | Sequence[Mapping[str, float]]) -> None:
    known = {name for d in data for name in d.attributes}
    if not known:
        raise UserError("weights weigh attributes, and no data have any; set attributes: all on their source")
    if isinstance(weights, int):
        if weights < 1:
            raise UserError(f"weights is {weights}; draw at least 1 for each prompt")
        return
    for name in (name for vector in weights for name in vector):
        if name not in known:
            raise UserError(f"weights: no attribute {name!r}. {nearest(name, known)}")


def _drawn(names: Sequence[str], draw: random.Random) -> dict[str, float]:
    """A weighting of the simplex in hundredths: the gaps between sorted uniform numbers, 0 and 1."""
    cuts = [0, *sorted(round(100 * draw.random()) for _ in names[1:]), 100]
    return {name: (end - start) / 100 for name, start, end in zip(names, cuts, cuts[1:], strict=False)}


def _towards(d: Datum, n: int, weights: Mapping[str, float], template: str, place: Place) -> Datum:
    none = (None,) * len(d.responses)
    grades = weighted_sum({name: d.attributes.get(name, none) for name in weights}, weights) or none
    own = tuple(
        a if a.prompt is None else replace(a, prompt=weighted_prompt(a.prompt, weights, template, place))
        for a in d.about
    )
    # The grade of a response with a role, such as a degree, is no quality.
    kept = set(answers(d))
    return replace(
        d,
        id=f"{d.id}/weights {n}",
        prompt=weighted_prompt(d.prompt, weights, template, place),
        grades=tuple(g if i in kept else (d.grades or none)[i] for i, g in enumerate(grades)),
        judgements=(),
        annotator_grades={},
        about=own,
        contrasts=(),
        ranked=False,
    )
