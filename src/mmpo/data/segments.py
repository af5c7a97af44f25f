"""Rows of segments: what an agent saw and did in a few steps of any world, and what was said about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmpo.data.ledger import Ledger
from mmpo.data.read import has_own_splits, read
from mmpo.data.rows import BadRow, Row, items, number, numbers, too_deep
from mmpo.data.schemas import Schema, responses_row
from mmpo.data.source import Source
from mmpo.data.write import to_row
from mmpo.errors import OnBadRow, UserError
from mmpo.types import Datum

_STATED = ("prompt", "responses")
"""The columns that the statements of a text row refer to; a row of segments gets stand-ins for them."""


@dataclass(frozen=True)
class Space:
    """What the segments of one world have in common: numbers in an observation, and in an action if it has any.

    ``action`` is None where an action is one of several choices.
    """

    observation: int
    action: int | None

    def __str__(self) -> str:
        act = "one choice" if self.action is None else f"{self.action} numbers"
        return f"{self.observation} numbers an observation and {act} an action"


@dataclass(frozen=True)
class Segment:
    """T steps: ``observations`` [T, D] float32 and ``actions``, [T] int64 choices or [T, A] float32 numbers."""

    observations: NDArray[np.float32]
    actions: NDArray[Any]

    @classmethod
    def of(cls, observations: ArrayLike, actions: ArrayLike) -> Segment:
        """The same from anything that numpy takes; a flat list of actions holds choices, a nested one numbers."""
        acted = np.asarray(actions)
        return cls(np.asarray(observations, np.float32), acted.astype(np.int64 if acted.ndim == 1 else np.float32))

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def space(self) -> Space:
        return Space(self.observations.shape[1], self.actions.shape[1] if self.actions.ndim == 2 else None)


@dataclass(frozen=True)
class SegmentDatum:
    """K segments, and what was said about them: a Datum whose responses are the names of the segments."""

    said: Datum
    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, id: str, segments: Sequence[Segment], **said: Any) -> SegmentDatum:
        """Segments with the fields of ``Datum`` that say something about them, such as ``grades`` or ``judgements``."""
        return cls(Datum(id, "segments", _names(segments), **said), tuple(segments))

    def row(self) -> dict[str, Any]:
        """The datum as a row that ``load_segments`` reads."""
        stated = {key: value for key, value in to_row(self.said).items() if key not in _STATED}
        told = [{"observations": s.observations.tolist(), "actions": s.actions.tolist()} for s in self.segments]
        return {"segments": told, **stated}


@dataclass(frozen=True)
class LoadedSegments:
    """Data, the account of the rows they came from, and the space that all of them share."""

    data: list[SegmentDatum]
    ledger: Ledger
    space: Space


def load_segments(
    sources: Source | str | Mapping[str, Any] | Iterable[Source | str | Mapping[str, Any]],
    *,
    on_bad_row: OnBadRow = "error",
) -> LoadedSegments:
    """Read rows of K >= 2 segments, ``{"segments": [{"observations": [[...], ...], "actions": [...]}, ...], ...}``.

    Besides, a row says what rows of texts say: ``scores``, ``ranks``, ``pairwise``, ``judgements``; of two segments
    ``votes``, ``p_first``, ``preferred`` or ``margin``; and ``weight``, ``id``, ``split``.

    Args:
        sources: one or several paths, mappings of the fields of ``Source``, or Sources.
        on_bad_row: "error" stops at the first bad row; "drop" leaves bad rows out and counts them by reason,
            and ``AtMost`` does so up to a ceiling over all sources.

    Raises:
        UserError: a bad row under "error", rows of two different worlds, a source without one usable row.
    """
    listed = [sources] if isinstance(sources, str | Mapping | Source) else list(sources)
    ledgers: list[Ledger] = []
    data: list[SegmentDatum] = []
    for source in map(Source.parse, listed):
        if source.weight != 1:
            raise UserError(f"{source.path}: weight of a source is for texts; give the rows of segments a weight each")
        ledgers.append(Ledger(source.path))
        found = list(_parsed(source, ledgers[-1], on_bad_row, data[0].segments[0].space if data else None))
        if not found:
            dropped = "; ".join(ledgers[-1].summary())
            raise UserError(f"{source.path}: no row of segments can be used; give at least one ({dropped})")
        source.check_ignored(ledgers[-1].columns_used, ledgers[-1].columns_unused)
        data += found
    if not data:
        raise UserError("data: no source is given; give a path")
    ledger = Ledger.total(ledgers)
    ledger.check(on_bad_row)
    return LoadedSegments(data, ledger, data[0].segments[0].space)


def _parsed(source: Source, ledger: Ledger, on_bad_row: OnBadRow, space: Space | None) -> Iterator[SegmentDatum]:
    notes: Counter[str] = Counter()
    for n, raw in read(source):
        if ledger.rows_used == source.limit:
            ledger.notes.append(f"limit {source.limit}: the rows from {n} on were not read")
            break
        where = f"{source.path}:{n}"
        ledger.rows_in += 1
        try:
            if isinstance(raw, BadRow):
                raise raw
            if source.split is not None and not has_own_splits(source) and str(raw.get("split")) != source.split:
                ledger.drop("other split", where)
                continue
            datum, noted = _datum(raw, source, ledger, where)
            space = space or datum.segments[0].space
            _same_world(datum.segments, space)
        except (BadRow, RecursionError) as error:
            bad = error if isinstance(error, BadRow) else too_deep()
            if on_bad_row == "error":
                raise UserError(f"{where}: {bad} or drop the row (on_bad_row: drop)") from bad
            ledger.drop(bad.reason, where, str(bad))
            continue
        ledger.rows_used += 1
        ledger.data += 1
        notes.update(noted)
        yield datum
    ledger.notes += [f"{note} (rows: {count})" for note, count in notes.items()]


def _datum(raw: dict[str, Any], source: Source, ledger: Ledger, where: str) -> tuple[SegmentDatum, list[str]]:
    """The row as a datum, and what is to be noted of it."""
    told = Row(raw)
    given = told.items("segments")
    segments = [_segment(value, f"segments[{i}]") for i, value in enumerate(given)]
    if len(segments) < 2:
        raise BadRow("fewer than 2 segments", f"segments has {len(segments)} entries; give at least 2")
    row = Row({**raw, "prompt": "segments", "responses": _names(segments)})
    said = replace(responses_row(row, source), source=where, id=str(row.value("id")) if row.has("id") else where)
    if row.has("weight"):
        said = replace(said, weight=row.weight("weight"))
    if row.has("split"):
        said = replace(said, split=str(row.value("split")))
    used = told.used | row.used.difference(_STATED)
    ledger.columns_used |= used
    ledger.columns_unused = (ledger.columns_unused | set(raw)) - ledger.columns_used
    ledger.columns_left.update(name for name in set(raw) - used if name in source.left)
    ledger.shapes[SEGMENTS.name] += 1
    further = sorted({key for value in given for key in value} - {"observations", "actions"})
    noted = [f"not used of the segments: {', '.join(further)}"] if further else []
    return SegmentDatum(said, tuple(segments)), row.notes + noted


def _names(segments: Sequence[Segment]) -> tuple[str, ...]:
    return tuple(f"segment {i}" for i in range(len(segments)))


def _segment(value: Any, name: str) -> Segment:
    if not isinstance(value, Mapping) or not value.keys() >= {"observations", "actions"}:
        raise BadRow("wrong type", f"{name} is no mapping with observations and actions; give both")
    seen = _table(value["observations"], f"{name}.observations")
    acted = items(value["actions"], f"{name}.actions")
    if len(acted) != len(seen):
        raise BadRow(
            "lengths differ", f"{name} has {len(seen)} observations and {len(acted)} actions; give one of each a step"
        )
    nested = isinstance(acted[0], Sequence)
    return Segment(seen, _table(acted, f"{name}.actions") if nested else _choices(acted, f"{name}.actions"))


def _table(value: Any, name: str) -> NDArray[np.float32]:
    """A list of T lists of as many numbers each."""
    lines = items(value, name)
    if not lines:
        raise BadRow("no steps", f"{name} is empty; give at least one step")
    width = len(items(lines[0], f"{name}[0]"))
    with np.errstate(over="ignore"):
        table = np.array([numbers(line, f"{name}[{t}]", width) for t, line in enumerate(lines)], np.float32)
    if not np.isfinite(table).all():
        raise BadRow("too large a number", f"{name} holds a number beyond 3.4e38; scale it down")
    return table


def _choices(acted: Sequence[Any], name: str) -> NDArray[np.int64]:
    choices = [number(choice, f"{name}[{t}]") for t, choice in enumerate(acted)]
    for t, choice in enumerate(choices):
        if not 0 <= choice < 2**31 or not choice.is_integer():
            raise BadRow(
                "no choice", f"{name}[{t}] is {choice:g}; give a choice as 0, 1, 2 ..., numbers as a list for each step"
            )
    return np.array(choices, np.int64)


def _same_world(segments: Sequence[Segment], space: Space) -> None:
    for i, segment in enumerate(segments):
        if segment.space != space:
            raise BadRow("another world", f"segments[{i}] has {segment.space}, the first row {space}; give them alike")


def _refuse(row: Row, source: Source) -> Datum:
    raise UserError(
        f"{source.path}: rows of segments hold no texts; train on them from Python, with mmpo.models.segments"
    )


SEGMENTS = Schema("segments", frozenset({"segments"}), _refuse)
"""The shape as the loader of texts knows it: by its column, to say where such rows are trained."""
