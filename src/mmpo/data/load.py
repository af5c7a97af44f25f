"""Sources -> data and the account of every row."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmpo.data import texts
from mmpo.data.hub_schemas import HUB_SCHEMAS
from mmpo.data.ledger import Ledger
from mmpo.data.pairs import graded
from mmpo.data.read import has_own_splits, read
from mmpo.data.rows import BadRow, Row, too_deep
from mmpo.data.schemas import SCHEMAS, Schema
from mmpo.data.segments import SEGMENTS
from mmpo.data.source import Source
from mmpo.errors import AtMost, OnBadRow, UserError
from mmpo.types import Datum

ALL_SCHEMAS = (*HUB_SCHEMAS, *SCHEMAS, SEGMENTS)

Sources = Source | str | Mapping[str, Any] | Iterable["Source | str | Mapping[str, Any]"]


@dataclass(frozen=True)
class Loaded:
    """Data, and the account of the rows they came from."""

    data: list[Datum]
    ledger: Ledger


def load(sources: Sources, *, on_bad_row: OnBadRow = "error", seed: int = 0) -> Loaded:
    """Read sources; every row becomes one Datum (rows of one response each are gathered by prompt).

    Args:
        sources: one or several paths, mappings of the fields of ``Source``, or Sources.
        on_bad_row: "error" stops at the first bad row; "drop" leaves bad rows out and counts them by reason, and
            ``AtMost`` does so up to a ceiling over all sources.
        seed: draws the share of a source whose weight is no whole number.

    Raises:
        UserError: a bad row under "error", an unknown row shape, a source without one usable row.
    """
    if on_bad_row not in ("error", "drop") and not isinstance(on_bad_row, AtMost):
        raise UserError(f"on_bad_row is {on_bad_row!r}; give 'error' or 'drop'")
    listed = [sources] if isinstance(sources, str | Mapping | Source) else list(sources)
    if not listed:
        raise UserError("data: no source is given; give a path")
    loaded = [_load_one(Source.parse(s), on_bad_row, seed + n) for n, s in enumerate(listed)]
    ledger = Ledger.total(one.ledger for one in loaded)
    ledger.check(on_bad_row)
    return Loaded([d for one in loaded for d in one.data], ledger)


def _load_one(source: Source, on_bad_row: OnBadRow, seed: int) -> Loaded:
    ledger = Ledger(source.path)
    groups = _gather(_parsed(source, ledger, on_bad_row), ledger, 1 if source.feedback == "optional" else 2)
    if not groups:
        raise UserError(_nothing(source, ledger))
    source.check_ignored(ledger.columns_used, ledger.columns_unused)
    if source.margin is not None and "margin" not in ledger.columns_used | ledger.columns_unused:
        raise UserError(
            f"{source.path}: margin is set to {source.margin!r}, but no row has a column 'margin'; leave it out"
        )
    if source.marks is not None and not ledger.provides["marks"]:
        raise UserError(
            f"{source.path}: marks is set to {source.marks!r}, but no response has <MASK> tags; leave it out"
        )
    groups = _mix(groups, source, ledger, seed)
    data = _unique_ids([_datum_of(group) for group in groups], ledger)
    ledger.data = len(data)
    return Loaded(data, ledger)


def _parsed(source: Source, ledger: Ledger, on_bad_row: OnBadRow) -> Iterator[Datum]:
    notes: Counter[str] = Counter()
    for n, raw in read(source):
        if ledger.rows_used == source.limit:
            ledger.notes.append(f"limit {source.limit}: the rows from {n} on were not read")
            break
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
        notes.update(row.notes)
        ledger.rows_used += 1
        yield datum
    ledger.columns_unused -= ledger.columns_used
    ledger.notes += [f"{note} (rows: {count})" for note, count in notes.items()]


def _datum(row: Row, source: Source, ledger: Ledger, where: str) -> Datum:
    schema = _recognise(row)
    datum = schema.read(row, source)
    if row.has("weight"):
        datum = replace(datum, weight=row.weight("weight"))
    ledger.shapes[schema.name] += 1
    ledger.columns_left.update(schema.left(row, source))
    ledger.provides.update(_kinds(datum, source))
    name = str(row.value("id")) if row.has("id") else where
    return replace(datum, id=name, split=_name_in(row, "split"), subset=_name_in(row, "subset"), source=where)


def _recognise(row: Row) -> Schema:
    for schema in ALL_SCHEMAS:
        if schema.columns <= row.columns:
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
        "prompts": any(own.prompt is not None and not own.role for own in datum.about),
        "marks": any(own.marks for own in datum.about),
        "contrasts": bool(datum.contrasts),
    }
    roles = {own.role: None for own in datum.about if own.role}
    return [kind for kind, there in found.items() if there] + list(roles)


# ---------------------------------------------------------------------------------------------- splits


def _name_in(row: Row, column: str) -> str | None:
    value = row.value(column) if row.has(column) else None
    return None if value is None else str(value)


def _in_split(row: Row, source: Source) -> bool:
    if source.split is None or has_own_splits(source):
        return True
    if not row.has("split"):
        raise UserError(f"{source.path}: split is {source.split!r}, but rows have no column 'split'; leave it out")
    return _name_in(row, "split") == source.split


def _nothing(source: Source, ledger: Ledger) -> str:
    """Why a source gave no data at all."""
    if not ledger.rows_in:
        return f"{source.path}: holds no rows; give at least one"
    reasons = "; ".join(
        f"{d.count} {reason} (first {d.rows[0].rsplit(':', 1)[-1]}{f': {d.mend}' if d.mend else ''})"
        for reason, d in ledger.dropped.items()
    )
    return f"{source.path}: none of its {ledger.rows_in} rows can be used: {reasons}"


# ---------------------------------------------------------------------------------------------- rows to data


def _gather(parsed: Iterable[Datum], ledger: Ledger, least: int) -> list[list[Datum]]:
    """The rows of one response each in groups of one prompt, every other row alone, in the order of first rows.

    A group of fewer than ``least`` responses is dropped.
    """
    groups: dict[str, list[Datum]] = {}
    for d in parsed:
        alone = len(d.responses) == 1 and not d.about and not d.contrasts
        name = f"{d.split}:{d.subset}:{d.weight}:{texts.key(d.prompt)}" if alone else d.source
        groups.setdefault(name, []).append(d)
    whole = []
    for group in groups.values():
        if sum(len(d.responses) for d in group) >= least:
            whole.append(group)
        else:
            ledger.rows_used -= 1
            ledger.drop("the only response to its prompt", group[0].source)
    return whole


def _datum_of(group: Sequence[Datum]) -> Datum:
    first = group[0]
    if len(group) == 1:
        return first
    prompt, responses = texts.uniform(first.prompt, [r for d in group for r in d.responses])
    return replace(first, prompt=prompt, responses=responses, grades=tuple(g for d in group for g in d.grades or ()))


def _mix(groups: list[list[Datum]], source: Source, ledger: Ledger, seed: int) -> list[list[Datum]]:
    """The share or multiple of the prompts that the source's weight asks for."""
    if source.weight == 1:
        return groups
    whole, part = int(source.weight), source.weight % 1
    drawn = set(random.Random(seed).sample(range(len(groups)), round(part * len(groups))))
    times = [whole + (n in drawn) for n in range(len(groups))]
    if not any(times):
        raise UserError(f"{source.path}: weight {source.weight:g} of {len(groups)} prompts draws none; raise it")
    ledger.repeated = sum(max(t - 1, 0) for t in times)
    for group in (group for group, t in zip(groups, times, strict=True) if t == 0):
        for d in group:
            ledger.rows_used -= 1
            ledger.drop(f"not drawn (weight {source.weight:g})", d.source)
    return [group for group, t in zip(groups, times, strict=True) for _ in range(t)]


def _unique_ids(data: list[Datum], ledger: Ledger) -> list[Datum]:
    """Ids made unique: of rows that share an id by file and row, of a row that is used again by a number."""
    rows: dict[str, str] = {}
    copies: Counter[str] = Counter()
    again, out = 0, []
    for d in data:
        name = d.id
        if rows.setdefault(name, d.source) != d.source:
            name = f"{d.id}#{d.source}"
            again += copies[d.source] == 0
        copies[d.source] += 1
        out.append(replace(d, id=name if copies[d.source] == 1 else f"{name}~{copies[d.source]}"))
    if again:
        ledger.notes.append(f"rows with the id of an earlier row: {again}; their file and row were added to it")
    return out
