"""The rows of TRL and of this project, a raw row -> a Datum (id, split and source are filled in by the loader).

The shapes of well-known hub data sets are in ``hub_schemas``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from mmpo.data.prompts import split_prompt
from mmpo.data.rows import BadRow, Row, items, number, numbers, response, share
from mmpo.data.source import Source
from mmpo.errors import UserError, nearest
from mmpo.types import Datum, Judgement

FIRST_WINS: Mapping[float, float] = {0: 1.0, 1: 0.0, -1: 0.5}
"""A vote as the probability that the first response is better: 0 = first, 1 = second, -1 = tie."""

_SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)


@dataclass(frozen=True)
class Schema:
    """A row shape: its name, the columns by which it is recognised, and the function that reads it."""

    name: str
    columns: frozenset[str]
    read: Callable[[Row, Source], Datum]


# ---------------------------------------------------------------------------------------------- chosen and rejected


def preference_pair(row: Row, source: Source) -> Datum:
    """TRL: ``chosen`` and ``rejected``, with or without ``prompt``, as text or as messages.

    Optional: ``p_chosen``, or ``votes_chosen`` with ``votes_total`` or ``votes_rejected``; two scores; ``margin``.
    The label counts as a vote of its own only where nothing says how much better the chosen one is.
    """
    refuse_grade(source, "preference pairs have no attributes")
    prompt, responses = split_prompt(row, (row.response("chosen"), row.response("rejected")))
    statements = _label_strength(row)
    if _use_margin(row, source):
        return Datum("", prompt, responses, judgements=(_margin(row, source, statements, label=1.0),))
    grades = _pair_scores(row)
    if grades is None and not statements:
        statements = (Judgement(0, 1, p=1.0),)
    return Datum("", prompt, responses, grades=grades, judgements=statements)


def _label_strength(row: Row) -> tuple[Judgement, ...]:
    """What ``votes_chosen`` or ``p_chosen`` says; the votes win where both are there."""
    if row.has("votes_chosen"):
        won = row.number("votes_chosen")
        total = row.number("votes_total") if row.has("votes_total") else won + row.number("votes_rejected")
        if not 0 <= won <= total or total == 0:
            raise BadRow("impossible votes", f"votes_chosen is {won:g} of {total:g}; give at most all of at least 1")
        if row.has("p_chosen"):
            _compare(row, row.share("p_chosen"), won / total, "p_chosen")
        return (Judgement(0, 1, p=won / total, count=total),)
    if row.has("p_chosen"):
        return (Judgement(0, 1, p=row.share("p_chosen")),)
    return ()


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


# ---------------------------------------------------------------------------------------------- the column "margin"


def _use_margin(row: Row, source: Source) -> bool:
    """Whether the row's ``margin`` is to be read; without a stated meaning it is refused."""
    if not row.has("margin"):
        return False
    if source.margin is None:
        raise UserError(
            f"{source.path}: the column 'margin' means two things in this field; set margin to 'gap' (graded: how much "
            "better), 'offset' (additive, as TRL and OpenRLHF use it) or 'ignore'"
        )
    return source.margin != "ignore"


def _margin(row: Row, source: Source, statements: tuple[Judgement, ...], label: float | None) -> Judgement:
    """The margin with what else is said of the pair. An offset says nothing of who is better, so it keeps the label."""
    gap = row.number("margin")
    if statements:
        p = fmean([s.p for s in statements if s.p is not None], [s.count for s in statements])
        return Judgement(0, 1, p, sum(s.count for s in statements), gap)
    return Judgement(0, 1, label if source.margin == "offset" else None, gap=gap)


# ---------------------------------------------------------------------------------------------- prompt and responses


def responses_row(row: Row, source: Source) -> Datum:
    """``prompt`` and K >= 2 ``responses`` with any of these.

    For K responses: ``scores``, ``ranks`` (1 is best), ``attributes`` with the option ``grade``, ``annotator_scores``
    with ``annotators``, ``pairwise`` [[i, j, vote], ...]. For two: ``votes`` (0 first, 1 second, -1 tie),
    ``annotator_p_first``, ``p_first``, ``preferred``, ``margin``.
    """
    responses = tuple(response(v, f"responses[{i}]") for i, v in enumerate(row.items("responses")))
    n = len(responses)
    if n < 2:
        raise BadRow("fewer than 2 responses", f"responses has {n} entries; give at least 2")
    if not row.has("prompt"):
        raise BadRow("no prompt", "prompt is missing; give the prompt")
    prompt, responses = split_prompt(row, responses)
    by_annotator = _annotator_grades(row, source, n)
    grades, ranked = _grades(row, source, n, by_annotator)
    judgements = _pair_statements(row, source, n, graded=grades is not None) + _pairwise(row, n)
    if grades is None and not judgements:
        if row.has("preferred"):
            raise BadRow("no majority", "preferred is null and nothing else is stated; give votes or a preference")
        raise BadRow("no feedback", "there is no feedback; give scores, ranks, votes, p_first, preferred or pairwise")
    return Datum("", prompt, responses, grades, None, judgements, by_annotator, ranked=ranked)


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
        return row.numbers("scores", n), False
    elif row.has("ranks"):
        return tuple(-rank for rank in row.numbers("ranks", n)), True
    if by_annotator:
        row.note("no scores: the grade of a response is the mean over its annotators")
        given = [[g for g in column if g is not None] for column in zip(*by_annotator.values(), strict=True)]
        return tuple(fmean(column) if column else None for column in given), False
    for column in ("attributes", "annotator_attributes"):
        if row.has(column):
            known = ", ".join(sorted(row.value(column)))
            raise UserError(f"{source.path}: the rows have {column} and no scores; set grade to one of: {known}")
    return None, False


def _annotator_grades(row: Row, source: Source, n: int) -> dict[str, tuple[float | None, ...]]:
    if source.grade is not None and row.has("annotator_attributes"):
        name, table = "annotator_attributes", items(_attribute(row, source, "annotator_attributes"), source.grade)
    elif source.grade is None and row.has("annotator_scores"):
        name, table = "annotator_scores", row.items("annotator_scores")
    else:
        return {}
    names = _annotators(row, len(table)) or [f"annotator{a + 1}" for a in range(len(table))]
    if len(set(names)) < len(names):
        raise BadRow("annotator twice", "annotators names one annotator twice; give each one line of grades")
    return {who: _some_numbers(line, f"{name}[{a}]", n) for a, (who, line) in enumerate(zip(names, table, strict=True))}


def _some_numbers(line: Any, name: str, n: int) -> tuple[float | None, ...]:
    """Numbers, null where the annotator did not grade a response."""
    values = items(line, name)
    if len(values) != n:
        raise BadRow("lengths differ", f"{name} has {len(values)} entries for {n} responses; give one each")
    return tuple(None if v is None else number(v, f"{name}[{i}]") for i, v in enumerate(values))


def _attribute(row: Row, source: Source, column: str) -> Any:
    table = row.value(column)
    if not isinstance(table, Mapping):
        raise BadRow("wrong type", f"{column} is not a mapping; give {{attribute: [one number a response]}}")
    if source.grade not in table:
        raise UserError(f"{source.path}: no grade {source.grade!r}. {nearest(str(source.grade), table)}")
    return table[source.grade]


def _annotators(row: Row, n: int) -> list[str]:
    """The ids of n annotators; empty where the row names none."""
    if not row.has("annotators"):
        return []
    names = [str(name) for name in row.items("annotators")]
    if len(names) != n:
        raise BadRow("lengths differ", f"annotators has {len(names)} entries for {n} statements; give one each")
    return names


# ---------------------------------------------------------------------------------------------- statements about pairs


def _pair_statements(row: Row, source: Source, n: int, graded: bool) -> tuple[Judgement, ...]:
    """What is said of the first against the second. Shares that repeat the votes are compared and not counted twice."""
    present = [c for c in ("votes", "annotator_p_first", "p_first", "preferred", "margin") if row.has(c)]
    if present and n != 2:
        raise BadRow("not a pair", f"{present[0]} needs exactly 2 responses, there are {n}; use scores or pairwise")
    statements = _votes(row) if row.has("votes") or row.has("annotator_p_first") else _stated_share(row)
    if row.has("preferred"):
        choice = row.value("preferred")
        p = None if choice is None else vote(choice, "preferred")
        if p is not None and not graded and not statements:
            statements = (Judgement(0, 1, p=p),)
    if _use_margin(row, source):
        return (_margin(row, source, statements, label=None),)
    return statements


def _stated_share(row: Row) -> tuple[Judgement, ...]:
    if not row.has("p_first"):
        return ()
    names = row.value("annotators") if row.has("annotators") else []
    who = str(names[0]) if isinstance(names, Sequence) and len(names) == 1 else None
    return (Judgement(0, 1, p=row.share("p_first"), annotator=who),)


def _votes(row: Row) -> tuple[Judgement, ...]:
    """One judgement a named annotator; the votes of unnamed ones together."""
    shares: list[float] = []
    for column, read in (("votes", vote), ("annotator_p_first", share)):
        if row.has(column):
            shares = [read(v, f"{column}[{a}]") for a, v in enumerate(row.items(column))]
    if not shares:
        raise BadRow("no votes", "votes is empty; give at least one")
    if row.has("p_first"):
        _compare(row, row.share("p_first"), fmean(shares), "p_first")
    names: Sequence[str | None] = _annotators(row, len(shares))
    if not names and not row.has("weights"):
        return (Judgement(0, 1, p=fmean(shares), count=float(len(shares))),)
    weights = _weights(row, len(shares))
    names = names or [None] * len(shares)
    return tuple(Judgement(0, 1, p, weight=w, annotator=a) for p, w, a in zip(shares, weights, names, strict=True))


def _pairwise(row: Row, n: int) -> tuple[Judgement, ...]:
    if not row.has("pairwise"):
        return ()
    entries = row.items("pairwise")
    weights = _weights(row, len(entries))
    out = []
    for k, (entry, weight) in enumerate(zip(entries, weights, strict=True)):
        if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 3:
            raise BadRow("wrong type", f"pairwise[{k}] is {entry!r}; give [i, j, vote]")
        i, j = (number(x, f"pairwise[{k}]") for x in entry[:2])
        if i == j or not {i, j} <= set(range(n)):
            raise BadRow("no such pair", f"pairwise[{k}] compares {i:g} with {j:g}; give two of 0 to {n - 1}")
        out.append(Judgement(int(i), int(j), vote(entry[2], f"pairwise[{k}]"), weight=weight))
    return tuple(out)


def _weights(row: Row, n: int) -> tuple[float, ...]:
    return row.weights("weights", n) if row.has("weights") else (1.0,) * n


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


def vote(value: Any, name: str) -> float:
    """A vote code as the probability that the first is better. Raises BadRow for any other code."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in FIRST_WINS:
        raise BadRow("unknown vote", f"{name} is {value!r}; votes are 0 (first), 1 (second) or -1 (tie)")
    return FIRST_WINS[value]


def refuse_grade(source: Source, why: str) -> None:
    """An option that would do nothing is an error."""
    if source.grade is not None:
        raise UserError(f"{source.path}: grade is set to {source.grade!r}, but {why}; leave it out")


def _compare(row: Row, stated: float, counted: float, name: str) -> None:
    if abs(stated - counted) > 0.01:
        row.note(f"{name} differs from the share of votes by more than 0.01; the votes were used")


SCHEMAS = (
    Schema("preference pair", frozenset({"chosen", "rejected"}), preference_pair),
    Schema("prompt and responses", frozenset({"responses"}), responses_row),
    Schema("one graded response", frozenset({"prompt", "response"}), one_response),
)
