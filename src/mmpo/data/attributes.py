"""What responses were graded on: the attributes of a row, and their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from mmpo.data.rows import BadRow, Row, items, some_numbers
from mmpo.data.source import ALL, Source
from mmpo.errors import nearest

Line = tuple[float | None, ...]
"""One grade a response, None where it has none."""

PEOPLE = ("attributes", "annotator_attributes")
MODEL = ("model_scores_by", "model_scores_of")
"""Columns of a row of several responses that hold attributes: people's word, and a model's by its outputs and as its
voices see them, which ``mmpo score`` writes."""
WHOLE = "model_scores"
"""The score itself, which is a grade only where a source asks for it by name."""


def weighted_sum(lines: Mapping[str, Sequence[float | None]], weights: Mapping[str, float]) -> Line:
    """sum_a w_a q_a of each response, from the grades q [K] of each attribute a; None where one of them is missing."""
    columns = zip(*(lines[name] for name in weights), strict=True)
    return tuple(
        None
        if None in column
        else math.fsum(w * g for w, g in zip(weights.values(), column, strict=True) if g is not None)
        for column in columns
    )


def means(lines: Iterable[Sequence[float | None]]) -> Line:
    """The mean grade of each response over the lines of several people that give it one."""
    given = ([g for g in column if g is not None] for column in zip(*lines, strict=True))
    return tuple(fmean(column) if column else None for column in given)


class Attributes:
    """The attributes that a row holds, read as they are asked for.

    Args:
        row: the row.
        source: its options, for messages and for the names that are asked for.
        found: the names of the attributes that the row holds.
    """

    def __init__(self, row: Row, source: Source, found: Iterable[str]) -> None:
        self.row, self.source, self.found = row, source, sorted(found)

    def line(self, name: str) -> Line:
        """The grades of one attribute, one a response."""
        raise NotImplementedError

    def asked(self) -> dict[str, Line]:
        """The attributes that the source asks for: all of the row, or those it names."""
        asked = self.source.attributes
        if asked == ALL:
            lines = {name: self.line(name) for name in self.found}
            return {name: line for name, line in lines.items() if any(g is not None for g in line)}
        return {name: self.known(name, "attribute") for name in asked}

    def grades(self, weights: Mapping[str, float]) -> Line:
        """The weighted sum of attributes as the grades; a response that one of them lacks has none, and is counted."""
        out = weighted_sum({name: self.known(name, "grade") for name in weights}, weights)
        if None in out:
            self.row.note("responses that lack one of the attributes of grade have none")
        return out

    def known(self, name: str, what: str) -> Line:
        """Likewise of a name that the user wrote. Raises BadRow where the row has no such attribute."""
        if name not in self.found:
            raise absent(what, name, self.found)
        return self.line(name)


class Listed(Attributes):
    """The attributes of a row of n responses, in the columns ``PEOPLE`` and ``MODEL``."""

    def __init__(self, row: Row, source: Source, n: int) -> None:
        self.n = n
        self.tables = {column: mapping(row, column) for column in (*PEOPLE, *MODEL) if _holds(row, column, source)}
        if WHOLE in (source.weights or ()) and _holds(row, WHOLE, source):
            self.tables[WHOLE] = {WHOLE: row.value(WHOLE)}
        super().__init__(row, source, {name for table in self.tables.values() for name in table})

    def line(self, name: str) -> Line:
        column = self._column(name)
        value, where = self.tables[column][name], f"{column}.{name}"
        if value is None:  # as in a table, of which other rows have it
            return (None,) * self.n
        if column != "annotator_attributes":
            return some_numbers(value, where, self.n)
        return means([some_numbers(line, f"{where}[{a}]", self.n) for a, line in enumerate(items(value, where))])

    def _column(self, name: str) -> str:
        """Where an attribute stands. What each annotator gave is looked at only where nobody gives one number."""
        there = [column for column in self.tables if name in self.tables[column]]
        if len(there) > 1 and there[-1] in MODEL:
            raise BadRow(
                "stated twice", f"{name} stands in {' and in '.join(there)}; leave one out, as ignore: [{there[-1]}],"
            )
        return there[0]


class Columns(Attributes):
    """The attributes of a row of one response, a column each."""

    def __init__(self, row: Row, source: Source, known: Iterable[str]) -> None:
        """``known`` are the columns that "all" means, of those that the row has."""
        super().__init__(row, source, {name for name in known if row.has(name)} - source.left)

    def line(self, name: str) -> Line:
        return (None,) if self.row.value(name) is None else (self.row.number(name),)

    def known(self, name: str, what: str) -> Line:
        if not self.row.has(name):
            raise absent(what, name, self.row.columns)
        return self.line(name)


def absent(what: str, name: str, known: Collection[str]) -> BadRow:
    """A name that the user wrote and the row does not have."""
    why = f"no {what} {name!r}. {nearest(name, known)} Give it"
    if not known:
        why = f"{what} is set to {name!r}, but the row has no attributes; leave it out, give them"
    return BadRow(f"no {what} {name!r}", why)


def mapping(row: Row, column: str) -> Mapping[Any, Any]:
    """A column that holds something for each attribute."""
    table = row.value(column)
    if not isinstance(table, Mapping):
        raise BadRow("wrong type", f"{column} is not a mapping; give {{attribute: [one number a response]}}")
    return table


def _holds(row: Row, column: str, source: Source) -> bool:
    return column not in source.left and row.states(column)
