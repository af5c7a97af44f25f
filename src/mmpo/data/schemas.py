"""The rows of TRL and of this project, a raw row -> a Datum (id, split and source are filled in by the loader).

The shapes of well-known hub data sets are in ``hub_schemas``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from mmpo.data.about import complete, pair_texts, responses_texts
from mmpo.data.pairs import answers
from mmpo.data.rows import BadRow, Row, items, numbers, some_numbers
from mmpo.data.source import Source
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
from mmpo.errors import UserError, nearest
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
    refuse_grade(source, "preference pairs have no attributes")
    prompt, responses, about = pair_texts(row, source)
    statements, gap, who = label_strength(row), margin(row, source), one_name(row)
    if who is None and row.has("annotators"):
        raise BadRow("several annotators", "the row holds one label, so annotators must name one person; name one")
    # A stated gap replaces the scores; an offset says nothing of how much better, so the label stays.
    models = {} if gap else ensemble(row)
    grades = None if gap else means(models, 2) or _pair_scores(row)
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


def means(lines: Mapping[str, Sequence[float | None]], n: int) -> tuple[float | None, ...] | None:
    """The mean grade of each of n responses over the annotators who gave one; None without annotators."""
    given = [[g for line in lines.values() if (g := line[i]) is not None] for i in range(n)]
    return tuple(fmean(column) if column else None for column in given) if lines else None


# ---------------------------------------------------------------------------------------------- prompt and responses


def responses_row(row: Row, source: Source) -> Datum:
    """``prompt`` and K >= 2 ``responses`` with any of these.

    For K responses: ``scores``, ``ranks`` (1 is best), ``attributes`` with the option ``grade``, ``annotator_scores``
    with ``annotators``, ``pairwise`` [[i, j, vote], ...], ``judgements`` and ``pairs`` as ``to_row`` writes them.
    For two: ``votes`` (0 first, 1 second, -1 tie), ``annotator_p_first``, ``p_first`` (with ``p_first_swapped`` where a
    judge was asked in both orders), ``preferred``, ``margin``. Further, what ``about`` reads: ``prompts`` instead of
    ``prompt``, ``marks``, ``rationale``, ``rollouts``, ``variants``, ``contrasts``; and ``annotator``.
    """
    prompt, responses, about = responses_texts(row, source)
    n, compared = len(responses), sum(not own.role for own in about)
    least = 1 if source.feedback == "optional" else 2
    if compared < least:
        raise BadRow(f"fewer than {least} responses", f"responses has {compared} entries; give at least {least}")
    by_annotator = _annotator_grades(row, source, n)
    grades, ranked = _grades(row, source, n, by_annotator)
    stated = first_against_second(row, source, n, grades is not None) + pairwise(row, n) + judgements(row, n)
    contrasted = row.states("contrasts") and row.items("contrasts")
    if grades is None and not stated and not contrasted and source.feedback == "required":
        if row.has("preferred"):
            raise BadRow("no majority", "preferred is null and nothing else is stated; give votes or a preference")
        seen = ", ".join(sorted(row.columns - row.used)) or "none"
        raise BadRow(
            "no feedback",
            f"there is no feedback; give scores, ranks, votes, p_first, preferred or pairwise (other columns: {seen})",
        )
    said = Datum("", prompt, responses, grades, pairs(row, n), stated, by_annotator, ranked=ranked, about=about)
    _only_answers(said)
    return complete(row, said)


def _only_answers(datum: Datum) -> None:
    """Raise BadRow where a statement compares a response that has a role."""
    named = {i for j in datum.judgements for i in (j.first, j.second)} | {i for p in datum.pairs or () for i in p}
    for i in sorted(named - set(answers(datum))):
        raise BadRow("no such pair", f"response {i} is compared, and it is a {datum.about[i].role}; compare answers")


def _grades(
    row: Row, source: Source, n: int, by_annotator: Mapping[str, Sequence[float | None]]
) -> tuple[tuple[float | None, ...] | None, bool]:
    """One grade a response, and whether it is a rank."""
    if source.grade is not None:
        if row.has("attributes"):
            return numbers(_attribute(row, source, "attributes"), f"attributes.{source.grade}", n), False
        if not row.has("annotator_attributes"):
            refuse_grade(source, "these rows have no attributes")
    elif row.has("scores"):
        return _maybe(row, "scores", n), False
    elif row.has("ranks"):
        return tuple(None if rank is None else -rank for rank in _maybe(row, "ranks", n)), True
    if by_annotator:
        row.note("no scores: the grade of a response is the mean over its annotators")
        return means(by_annotator, n), False
    for column in ("attributes", "annotator_attributes"):
        if row.states(column):
            known = ", ".join(sorted(_mapping(row, column)))
            raise UserError(f"{source.path}: the rows have {column} and no scores; set grade to one of: {known}")
    return None, False


def _maybe(row: Row, name: str, n: int) -> tuple[float | None, ...]:
    """A row that spells out its judgements may leave responses ungraded; elsewhere a null is a mistake."""
    return row.some_numbers(name, n) if row.has("judgements") or row.states("about") else row.numbers(name, n)


def _annotator_grades(row: Row, source: Source, n: int) -> dict[str, tuple[float | None, ...]]:
    if source.grade is not None and row.has("annotator_attributes"):
        name, table = "annotator_attributes", items(_attribute(row, source, "annotator_attributes"), source.grade)
    elif source.grade is None and row.has("annotator_scores"):
        name, table = "annotator_scores", row.items("annotator_scores")
    else:
        return {}
    names = annotators(row, len(table)) or [f"annotator{a + 1}" for a in range(len(table))]
    if len(set(names)) < len(names):
        raise BadRow("annotator twice", "annotators names one annotator twice; give each one line of grades")
    return {who: some_numbers(line, f"{name}[{a}]", n) for a, (who, line) in enumerate(zip(names, table, strict=True))}


def _mapping(row: Row, column: str) -> Mapping[Any, Any]:
    table = row.value(column)
    if not isinstance(table, Mapping):
        raise BadRow("wrong type", f"{column} is not a mapping; give {{attribute: [one number a response]}}")
    return table


def _attribute(row: Row, source: Source, column: str) -> Any:
    table = _mapping(row, column)
    if source.grade not in table:
        raise UserError(f"{source.path}: no grade {source.grade!r}. {nearest(str(source.grade), table)}")
    return table[source.grade]


# ---------------------------------------------------------------------------------------------- one response a row

_ONE_GRADE = ("helpfulness", "score", "rating")


def one_response(row: Row, source: Source) -> Datum:
    """``prompt``, ``response`` and a grade: "helpfulness" (HelpSteer2), "score", "rating" or the option ``grade``.

    The loader gathers the rows of one prompt into one Datum.
    """
    name = source.grade or row.first(*_ONE_GRADE)
    if name is None:
        raise BadRow("no feedback", "there is no score, rating or helpfulness; give one, or set grade to its column")
    if not row.has(name):
        raise UserError(f"{source.path}: no grade {name!r}. {nearest(name, row.columns)}")
    return Datum("", row.prompt(), (row.response("response"),), (row.number(name),))


# ---------------------------------------------------------------------------------------------- shared


def refuse_grade(source: Source, why: str) -> None:
    """An option that would do nothing is an error."""
    if source.grade is not None:
        raise UserError(f"{source.path}: grade is set to {source.grade!r}, but {why}; leave it out")


SCHEMAS = (
    Schema("preference pair", frozenset({"chosen", "rejected"}), preference_pair),
    Schema("prompt and responses", frozenset({"responses"}), responses_row),
    # Of several attributes one is taken, which ``grade`` may name.
    Schema("one graded response", frozenset({"prompt", "response"}), one_response, frozenset({"helpfulness"})),
)
