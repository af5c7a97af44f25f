"""The rows of TRL and of this project, a raw row -> a Datum (id, split and source are filled in by the loader).

The shapes of well-known hub data sets are in ``hub_schemas``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmpo.data.about import complete, pair_texts, responses_texts
from mmpo.data.attributes import PEOPLE, Columns, Line, Listed, mapping, means, weighted_sum
from mmpo.data.pairs import answers
from mmpo.data.rows import BadRow, Row, items, some_numbers
from mmpo.data.source import ALL, Source
from mmpo.data.statements import (
    annotators,
    ensemble,
    first_against_second,
    judgements,
    label_strength,
    margin,
    one_name,
    pairs,
    pairwise,
)
from mmpo.errors import UserError
from mmpo.types import Datum, Judgement

_SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)


@dataclass(frozen=True)
class Schema:
    """A row shape: its name, the columns by which it is recognised, and the function that reads it.

    ``leaves`` are columns of such rows that sound like feedback and are left on purpose.
    """

    name: str
    columns: frozenset[str]
    read: Callable[[Row, Source], Datum]
    leaves: frozenset[str] = frozenset()

    def left(self, row: Row, source: Source) -> list[str]:
        """The columns of a row that were read by nobody, on purpose."""
        return sorted((row.columns - row.used) & (self.leaves | source.left))


# ---------------------------------------------------------------------------------------------- chosen and rejected


def preference_pair(row: Row, source: Source) -> Datum:
    """TRL: ``chosen`` and ``rejected``, with or without ``prompt``, as text or as messages.

    Optional: ``p_chosen``, or ``votes_chosen`` with ``votes_total`` or ``votes_rejected``; two scores; ``margin``;
    ``scores_chosen`` and ``scores_rejected`` of several reward models; ``annotator``; and what ``about`` reads: own
    prompts, marks, a rationale, rollouts, variants, contrasts. The label counts as a vote of its own where nothing
    says how much better the chosen one is, and beside reward models, whose word is not people's.
    """
    refuse_attributes(source, "preference pairs have no attributes")
    prompt, responses, about = pair_texts(row, source)
    statements, gap, who = label_strength(row), margin(row, source), one_name(row)
    if who is None and row.has("annotators"):
        raise BadRow("several annotators", "the row holds one label, so annotators must name one person; name one")
    # A stated gap replaces the scores; an offset says nothing of how much better, so the label stays.
    models = {} if gap else ensemble(row)
    grades = None if gap else (means(models.values()) if models else _pair_scores(row))
    if not statements and (models or grades is None) and (not gap or source.margin == "offset"):
        statements = (Judgement(0, 1, p=1.0),)
    stated = tuple(replace(j, annotator=who) if j.annotator is None else j for j in statements + gap)
    said = Datum("", prompt, responses, grades, None, stated, models, about=about)
    return complete(row, said, best_first=(0, 1))


def _pair_scores(row: Row) -> tuple[float, float] | None:
    pair = next((names for names in _SCORES if row.has(*names)), None)
    if pair is None:
        if any(row.has(name) for names in _SCORES for name in names):
            raise BadRow("column missing", "one response has a score and the other has none; give both")
        return None
    grades = row.number(pair[0]), row.number(pair[1])
    if grades[0] < grades[1]:
        row.note("the chosen response has the lower score; the scores were used")
    return grades


# ---------------------------------------------------------------------------------------------- prompt and responses


def responses_row(row: Row, source: Source) -> Datum:
    """``prompt`` and K >= 2 ``responses`` with any of these.

    For K responses: ``scores``, ``ranks`` (1 is best), ``attributes`` and ``annotator_attributes`` with the options
    ``grade`` and ``attributes``, ``annotator_scores`` with ``annotators``, ``pairwise`` [[i, j, vote], ...],
    ``judgements`` and ``pairs`` as ``to_row`` writes them.
    For two: ``votes`` (0 first, 1 second, -1 tie), ``annotator_p_first``, ``p_first`` (with ``p_first_swapped`` where a
    judge was asked in both orders), ``preferred``, ``margin``. Further, what ``about`` reads: ``prompts`` instead of
    ``prompt``, ``marks``, ``rationale``, ``rollouts``, ``variants``, ``contrasts``; and ``annotator``.
    """
    prompt, responses, about = responses_texts(row, source)
    n, compared = len(responses), sum(not own.role for own in about)
    least = 1 if source.feedback == "optional" else 2
    if compared < least:
        raise BadRow(f"fewer than {least} responses", f"responses has {compared} entries; give at least {least}")
    attributes = Listed(row, source, n) if source.attributes or source.grade is not None else None
    by_annotator = _annotator_grades(row, source, n)
    grades, ranked = _grades(row, source, attributes, by_annotator, n)
    stated = first_against_second(row, source, n, grades is not None) + pairwise(row, n) + judgements(row, n)
    if grades is None and not stated and not (row.states("contrasts") and row.items("contrasts")):
        _check_silent(row, source)
    said = Datum("", prompt, responses, grades, pairs(row, n), stated, by_annotator, ranked=ranked, about=about)
    if attributes is not None:
        said = replace(said, attributes=attributes.asked())
    note_unread(row, row.stated.intersection(PEOPLE) - source.left - row.used)
    _only_answers(said)
    return complete(row, said)


def _check_silent(row: Row, source: Source) -> None:
    """Raise UserError or BadRow where a row compares nothing and must. Its attributes say nothing without a weight."""
    graded = {column: mapping(row, column) for column in PEOPLE if column not in source.left and row.states(column)}
    if source.feedback == "optional":
        return
    for column, table in graded.items():
        raise UserError(
            f"{source.path}: the rows have {column} and no scores; set grade to one of: {', '.join(sorted(table))}; or "
            "to a weight for each of several, as {name: 0.5}"
        )
    if row.has("preferred"):
        raise BadRow("no majority", "preferred is null and nothing else is stated; give votes or a preference")
    seen = ", ".join(sorted(row.columns - row.used)) or "none"
    raise BadRow(
        "no feedback",
        f"there is no feedback; give scores, ranks, votes, p_first, preferred or pairwise (other columns: {seen})",
    )


def _only_answers(datum: Datum) -> None:
    """Raise BadRow where a statement compares a response that has a role."""
    named = {i for j in datum.judgements for i in (j.first, j.second)} | {i for p in datum.pairs or () for i in p}
    for i in sorted(named - set(answers(datum))):
        raise BadRow("no such pair", f"response {i} is compared, and it is a {datum.about[i].role}; compare answers")


def _grades(
    row: Row, source: Source, attributes: Listed | None, by_annotator: Mapping[str, Line], n: int
) -> tuple[Line | None, bool]:
    """One grade a response, and whether it is a rank."""
    if source.weights is not None and attributes is not None:
        return attributes.grades(source.weights), False
    if row.has("scores"):
        return _maybe(row, "scores", n), False
    if row.has("ranks"):
        return tuple(None if rank is None else -rank for rank in _maybe(row, "ranks", n)), True
    if by_annotator:
        row.note("no scores: the grade of a response is the mean over its annotators")
        return means(by_annotator.values()), False
    return None, False


def _maybe(row: Row, name: str, n: int) -> tuple[float | None, ...]:
    """A row that spells out its judgements may leave responses ungraded; elsewhere a null is a mistake."""
    return row.some_numbers(name, n) if row.has("judgements") or row.states("about") else row.numbers(name, n)


def _annotator_grades(row: Row, source: Source, n: int) -> dict[str, Line]:
    """What each annotator gave: scores, or the attributes that make the grade."""
    if source.weights is None:
        if not row.has("annotator_scores"):
            return {}
        return _by_annotator(row, "annotator_scores", row.items("annotator_scores"), n)
    column = PEOPLE[1]
    each = mapping(row, column) if column not in source.left and row.states(column) else {}
    if not each or not each.keys() >= source.weights.keys():
        return {}
    lines = {a: _by_annotator(row, f"{column}.{a}", items(each[a], f"{column}.{a}"), n) for a in source.weights}
    who = next(iter(lines.values()))
    return {one: weighted_sum({a: line[one] for a, line in lines.items()}, source.weights) for one in who}


def _by_annotator(row: Row, name: str, table: Sequence[Any], n: int) -> dict[str, Line]:
    """A line of grades from each annotator."""
    names = annotators(row, len(table)) or [f"annotator{a + 1}" for a in range(len(table))]
    if len(set(names)) < len(names):
        raise BadRow("annotator twice", "annotators names one annotator twice; give each one line of grades")
    return {who: some_numbers(line, f"{name}[{a}]", n) for a, (who, line) in enumerate(zip(names, table, strict=True))}


# ---------------------------------------------------------------------------------------------- one response a row

_ONE_GRADE = ("helpfulness", "score", "rating")
HELPSTEER2 = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def one_response(row: Row, source: Source) -> Datum:
    """``prompt``, ``response`` and a grade: "helpfulness" (HelpSteer2), "score", "rating" or the option ``grade``.

    The loader gathers the rows of one prompt into one Datum. Attributes are columns; "all" means those of HelpSteer2.
    """
    attributes = Columns(row, source, HELPSTEER2)
    if source.attributes == ALL and not attributes.found:
        raise UserError(f"{source.path}: attributes is all, and the rows have none of HelpSteer2's; name the columns")
    weights = source.weights
    if weights is None:
        name = row.first(*_ONE_GRADE)
        if name is None:
            why = "there is no score, rating or helpfulness; give one, or set grade to its column"
            raise BadRow("no feedback", why)
        grades: Line = (row.number(name),)
        if not source.attributes:
            note_unread(row, row.stated.intersection(HELPSTEER2) - source.left - row.used)
    else:
        grades = attributes.grades(weights)
    return Datum(
        "",
        row.prompt(),
        (row.response("response"),),
        grades,
        attributes=attributes.asked() if source.attributes else {},
    )


# ---------------------------------------------------------------------------------------------- shared


def note_unread(row: Row, names: Collection[str]) -> None:
    """Tell that these attributes are read by nobody."""
    if names:
        row.note(f"graded attributes that are not read: {', '.join(sorted(names))}; set attributes: all to read them")


def refuse_attributes(source: Source, why: str) -> None:
    """Options that would do nothing are an error."""
    for name in ("grade", "attributes"):
        if getattr(source, name):
            raise UserError(f"{source.path}: {name} is set to {getattr(source, name)!r}, but {why}; leave it out")


SCHEMAS = (
    Schema("preference pair", frozenset({"chosen", "rejected"}), preference_pair),
    # What a grade beside them sums up; where nobody reads them, a note says so.
    Schema("prompt and responses", frozenset({"responses"}), responses_row, frozenset(PEOPLE)),
    # Of several attributes one is taken, which ``grade`` may name.
    Schema("one graded response", frozenset({"prompt", "response"}), one_response, frozenset({"helpfulness"})),
)
