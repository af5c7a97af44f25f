"""Parsed rows -> data: which rows make a datum, how often a source's datum is used, and what it is called.

All of it is decided on a few numbers a row, so that the rows themselves may lie on disk.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from mmpo.data import texts
from mmpo.data.digests import Digests, digest, firsts, joined
from mmpo.data.ledger import Ledger
from mmpo.data.parse import nothing
from mmpo.data.source import Source
from mmpo.errors import UserError
from mmpo.types import Datum

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """What is known of each of n parsed rows of a source.

    Attributes:
        number: [n] number of the row in its source.
        group: [n] digests, equal for the rows that are gathered into one datum.
        name: [n] digests of the ids.
        prompt: [n] digests of the prompts; a plain one counts as one turn of the user.
        responses: [n] how many responses the row has.
    """

    number: Whole
    group: Digests
    name: Digests
    prompt: Digests
    responses: Whole

    def __len__(self) -> int:
        return len(self.number)

    @classmethod
    def of(cls, data: Sequence[Datum]) -> Rows:
        def digests(name: Callable[[Datum], str]) -> Digests:
            return joined(b"".join(digest(name(d)) for d in data))

        return cls(
            np.array([int(d.source.rsplit(":", 1)[1]) for d in data], np.int64),
            digests(_gathered_by),
            digests(lambda d: d.id),
            digests(lambda d: texts.key(texts.messages(d.prompt, "user"))),
            np.array([len(d.responses) for d in data], np.int64),
        )

    @classmethod
    def columns(cls) -> list[str]:
        return [f.name for f in fields(cls)]


def _gathered_by(d: Datum) -> str:
    """Rows of one response are gathered by their prompt; every other row stands alone."""
    alone = len(d.responses) == 1 and not d.about and not d.contrasts
    return f"{d.split}:{d.subset}:{d.weight}:{texts.key(d.prompt)}" if alone else f"{d.source} {d.id}"


@dataclass(frozen=True)
class Drawn:
    """Which rows make each of n data, in the order of their first rows.

    Attributes:
        rows: the rows of the first datum, of the second, and so on.
        ends: [n] where the rows of each datum end.
        source: [n] number of the source whose rows they are.
        copy: [n] 1, and 2, 3, ... where a datum is used again.
        renamed: [n] whether an earlier datum has the same id.
    """

    rows: Whole
    ends: Whole
    source: Whole
    copy: Whole
    renamed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def starts(self) -> Whole:
        return np.concatenate([[0], self.ends[:-1]]).astype(np.int64)

    def take(self, which: Whole) -> Drawn:
        """Some of the data, by their numbers."""
        starts, ends = self.starts[which], self.ends[which]
        kept = {name: getattr(self, name)[which] for name in ("source", "copy", "renamed")}
        return Drawn(_joined(self.rows, starts, ends), np.cumsum(ends - starts), **kept)

    @classmethod
    def chain(cls, drawn: Sequence[Drawn]) -> Drawn:
        """The data of several sources, one after the other."""
        before = np.cumsum([0, *(len(one.rows) for one in drawn)])
        ends = [one.ends + n for one, n in zip(drawn, before, strict=False)]
        source = np.repeat(np.arange(len(drawn)), [len(one) for one in drawn])
        rest = [np.concatenate([getattr(one, name) for one in drawn]) for name in ("copy", "renamed")]
        return cls(np.concatenate([one.rows for one in drawn]), np.concatenate(ends), source, *rest)

    def data(self, parsed: Sequence[Sequence[Datum]]) -> Iterator[Datum]:
        """The data, of the parsed rows of each source."""
        each = zip(self.starts, self.ends, self.source, self.copy, self.renamed, strict=True)
        for start, end, source, copy, renamed in each:
            rows = parsed[source]
            yield together([rows[int(n)] for n in self.rows[start:end]], int(copy), bool(renamed))


def collect(rows: Rows, source: Source, ledger: Ledger, seed: int) -> Drawn:
    """Gather rows, leave out prompts of one response, and draw the share or multiple that the source's weight asks for.

    Raises UserError where nothing is left.
    """
    first = firsts(rows.group)
    order = np.argsort(first, kind="stable")
    starts = np.flatnonzero(first[order] == order)
    ends = np.append(starts[1:], len(order)).astype(np.int64)
    said = np.add.reduceat(rows.responses[order], starts) if len(order) else starts
    enough = said >= (1 if source.feedback == "optional" else 2)
    _drop(order, starts[~enough], ends[~enough], rows, source, ledger, "the only response to its prompt")
    starts, ends = starts[enough], ends[enough]
    if not len(starts):
        raise UserError(nothing(ledger))
    times = _times(len(starts), source, seed)
    _drop(order, starts[times == 0], ends[times == 0], rows, source, ledger, f"not drawn (weight {source.weight:g})")
    starts, ends, times = starts[times > 0], ends[times > 0], times[times > 0]
    names = firsts(rows.name[order[starts]])
    renamed = names != np.arange(len(names))
    if renamed.any():
        ledger.notes.append(f"rows with the id of an earlier row: {renamed.sum()}; their file and row were added to it")
    ledger.data, ledger.repeated = int(times.sum()), int(times.sum()) - len(times)
    which = np.repeat(np.arange(len(times)), times)
    copy = np.arange(len(which)) - np.repeat(np.cumsum(times) - times, times) + 1
    chosen = _joined(order, starts[which], ends[which])
    return Drawn(chosen, np.cumsum((ends - starts)[which]), np.zeros_like(which), copy, renamed[which])


def _joined(values: Whole, starts: Whole, ends: Whole) -> Whole:
    """values[start:end] for each start and end, one after the other."""
    sizes = ends - starts
    return values[np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())]


def _drop(order: Whole, starts: Whole, ends: Whole, rows: Rows, source: Source, ledger: Ledger, reason: str) -> None:
    for number in rows.number[_joined(order, starts, ends)]:
        ledger.rows_used -= 1
        ledger.drop(reason, f"{source.path}:{number}")


def _times(n: int, source: Source, seed: int) -> Whole:
    """How often each of n data of the source is used, [n]."""
    whole, part = int(source.weight), source.weight % 1
    times = np.full(n, whole)
    times[random.Random(seed).sample(range(n), round(part * n))] += 1
    if not times.any():
        raise UserError(f"{source.path}: weight {source.weight:g} of {n} prompts draws none; raise it")
    return times


def together(rows: Sequence[Datum], copy: int, renamed: bool) -> Datum:
    """The datum of rows that are gathered. Its id is made unique: by file and row where another row has it, by a number
    where it is used again."""
    first = rows[0]
    name = (f"{first.id}#{first.source}" if renamed else first.id) + (f"~{copy}" if copy > 1 else "")
    if len(rows) == 1:
        return first if name == first.id else replace(first, id=name)
    prompt, responses = texts.uniform(first.prompt, [r for d in rows for r in d.responses])
    grades = tuple(g for d in rows for g in d.grades or ())
    attributes = {a: tuple(g for d in rows for g in d.attributes.get(a, (None,))) for d in rows for a in d.attributes}
    return replace(first, id=name, prompt=prompt, responses=responses, grades=grades, attributes=attributes)
