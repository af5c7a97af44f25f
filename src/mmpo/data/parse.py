"""Raw rows -> data, one for each row, and the account of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mmpo.data.hub_schemas import HUB_SCHEMAS
from mmpo.data.ledger import Ledger
from mmpo.data.pairs import graded
from mmpo.data.read import Numbered, has_own_splits
from mmpo.data.rows import BadRow, Row, too_deep
from mmpo.data.schemas import SCHEMAS, Schema
from mmpo.data.segments import SEGMENTS
from mmpo.data.source import Source
from mmpo.errors import OnBadRow, UserError
from mmpo.types import Datum

ALL_SCHEMAS = (*HUB_SCHEMAS, *SCHEMAS, SEGMENTS)


@dataclass
class Account:
    """What became of the rows of a source, or of some of them; accounts of rows that follow each other add up.

    Attributes:
        ledger: the rows counted.
        notes: what was noted of rows -> number of rows.
        stopped: the first row that was not read, because there were enough.
    """

    ledger: Ledger
    notes: Counter[str] = field(default_factory=Counter)
    stopped: int | None = None

    def add(self, other: Account) -> None:
        self.ledger.add(other.ledger)
        self.notes.update(other.notes)
        self.stopped = other.stopped

    def close(self, source: Source) -> Ledger:
        """The ledger with all notes, once all rows are read. Raises UserError for an option that met nothing."""
        ledger = self.ledger
        ledger.columns_unused -= ledger.columns_used
        if self.stopped is not None:
            ledger.notes.append(f"limit {source.limit}: the rows from {self.stopped} on were not read")
        ledger.notes += [f"{note} (rows: {count})" for note, count in self.notes.items()]
        if not ledger.rows_used:
            raise UserError(nothing(ledger))
        source.check_ignored(ledger.columns_used, ledger.columns_unused)
        if source.margin is not None and "margin" not in ledger.columns_used | ledger.columns_unused:
            raise UserError(
                f"{source.path}: margin is set to {source.margin!r}, but no row has a column 'margin'; leave it out"
            )
        if source.marks is not None and not ledger.provides["marks"]:
            raise UserError(
                f"{source.path}: marks is set to {source.marks!r}, but no response has <MASK> tags; leave it out"
            )
        if source.attributes and not ledger.provides["attributes"]:
            raise UserError(f"{source.path}: attributes is set, but no row has a grade by any; leave it out")
        return ledger

    def as_dict(self) -> dict[str, Any]:
        return {"ledger": self.ledger.as_dict(), "notes": self.notes, "stopped": self.stopped}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Account:
        return cls(Ledger.from_dict(told["ledger"]), Counter(told["notes"]), told["stopped"])


def parse(rows: Numbered, source: Source, told: Account, on_bad_row: OnBadRow, most: int | None) -> Iterator[Datum]:
    """The datum of each row that can be used, at most so many, accounted for in ``told``.

    Raises UserError for a bad row, unless those are dropped.
    """
    ledger = told.ledger
    for n, raw in rows:
        if ledger.rows_used == most:
            told.stopped = n
            return
        where = f"{source.path}:{n}"
        ledger.rows_in += 1
        row = Row(raw) if not isinstance(raw, BadRow) else Row({})
        try:
            if isinstance(raw, BadRow):
                raise raw
            if not _in_split(row, source):
                ledger.drop("other split", where)
                continue
            datum = _datum(row, source, ledger, where)
        except (BadRow, RecursionError) as error:
            bad = error if isinstance(error, BadRow) else too_deep()
            if on_bad_row == "error":
                raise UserError(f"{where}: {bad} or drop the row (on_bad_row: drop)") from bad
            ledger.drop(bad.reason, where, str(bad))
            continue
        finally:
            ledger.columns_used |= row.used
            ledger.columns_unused |= row.columns - row.used
        told.notes.update(row.notes)
        ledger.rows_used += 1
        yield datum


def nothing(ledger: Ledger) -> str:
    """Why a source gave no data at all."""
    if not ledger.rows_in:
        return f"{ledger.name}: holds no rows; give at least one"
    reasons = "; ".join(
        f"{d.count} {reason} (first {d.rows[0].rsplit(':', 1)[-1]}{f': {d.mend}' if d.mend else ''})"
        for reason, d in ledger.dropped.items()
    )
    return f"{ledger.name}: none of its {ledger.rows_in} rows can be used: {reasons}"


def _datum(row: Row, source: Source, ledger: Ledger, where: str) -> Datum:
    schema = _recognise(row)
    datum = schema.read(row, source)
    if row.has("weight"):
        datum = replace(datum, weight=row.weight("weight"))
    ledger.shapes[schema.name] += 1
    ledger.columns_left.update(schema.left(row, source))
    ledger.provides.update(_kinds(datum, source))
    name = str(row.value("id")) if row.has("id") else where
    return replace(datum, id=name, split=_name_in(row, "split"), subset=_subset(row, source), source=where)


def _recognise(row: Row) -> Schema:
    # A table has the columns of all its rows in each, and null in those of other shapes.
    for there in (row.stated, row.columns):
        for schema in ALL_SCHEMAS:
            if schema.columns <= there:
                return schema
    known = "; ".join(f"{s.name} ({', '.join(sorted(s.columns))})" for s in ALL_SCHEMAS)
    raise BadRow(
        "unknown row shape",
        f"no known row shape; the columns are {', '.join(sorted(row.columns)) or 'none'}; known shapes: {known};",
    )


def _kinds(datum: Datum, source: Source) -> list[str]:
    """The kinds of feedback that a datum carries."""
    gaps = any(j.gap is not None for j in datum.judgements)
    named = datum.annotator_grades or any(j.annotator is not None for j in datum.judgements)
    found = {
        "grades": bool(graded(datum)) or (gaps and source.margin != "offset"),
        "ranks": datum.ranked,
        "votes": any(j.p is not None for j in datum.judgements),
        "offset": gaps and source.margin == "offset",
        "annotators": bool(named),
        "attributes": bool(datum.attributes),
        "prompts": any(own.prompt is not None and not own.role for own in datum.about),
        "marks": any(own.marks for own in datum.about),
        "contrasts": bool(datum.contrasts),
    }
    roles = {own.role: None for own in datum.about if own.role}
    return [kind for kind, there in found.items() if there] + list(roles)


def _name_in(row: Row, column: str) -> str | None:
    value = row.value(column) if row.has(column) else None
    return None if value is None else str(value)


def _subset(row: Row, source: Source) -> str | None:
    own = _name_in(row, "subset")
    if source.subset is not None:
        row.note(f"of the subset {source.subset!r}, as its source" if own is None else "of a subset that the row names")
    return source.subset if own is None else own


def _in_split(row: Row, source: Source) -> bool:
    if source.split is None or has_own_splits(source):
        return True
    if not row.has("split"):
        raise UserError(f"{source.path}: split is {source.split!r}, but rows have no column 'split'; leave it out")
    return _name_in(row, "split") == source.split
