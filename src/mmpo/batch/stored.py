"""Examples in columns: on disk and memory-mapped, or in memory, one class for both."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from mmpo.batch import columns
from mmpo.batch.columns import COLUMNS, Flat, flat, whole
from mmpo.batch.example import Example, Sizes
from mmpo.batch.tokenize import Encoded
from mmpo.pieces import Pieces, blobs

IDS = "id"


class Growing:
    """Columns of examples as they grow."""

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self._at: dict[str, list[int]] = defaultdict(list)
        self._values: dict[str, list[NDArray[Any]]] = defaultdict(list)

    def add(self, example: Example) -> None:
        for name, values in flat(example).items():
            if len(values):
                self._at[name].append(len(self.ids))
                self._values[name].append(values)
        self.ids.append(example.encoded.id.encode("utf-8", "surrogatepass"))

    def columns(self) -> dict[str, pa.Array]:
        return {IDS: blobs(self.ids), **{name: self._column(name) for name in COLUMNS}}

    def _column(self, name: str) -> pa.Array:
        ends = np.zeros(len(self.ids) + 1, np.int64)
        ends[np.array(self._at[name], np.int64) + 1] = list(map(len, self._values[name]))
        values = np.concatenate([np.empty(0, COLUMNS[name]), *self._values[name]])
        return pa.LargeListArray.from_arrays(pa.array(ends.cumsum()), pa.array(values))


class _Block:
    """The columns of one piece that are not empty, as numpy arrays without a copy."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.ids = batch.column(IDS)
        lists = {name: batch.column(name) for name in COLUMNS}
        self.columns: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {
            name: (np.asarray(column.offsets), np.asarray(column.values))
            for name, column in lists.items()
            if len(column.values)
        }

    def row(self, n: int) -> tuple[str, Flat]:
        """The id and the values of a row."""
        at = {}
        for name, (ends, values) in self.columns.items():
            begin, end = ends[n], ends[n + 1]
            if begin < end:
                at[name] = values[begin:end]
        return self.ids[n].as_py().decode("utf-8", "surrogatepass"), at

    def sizes(self) -> Sizes:
        ends, lengths = self.columns["lengths"]
        lengths = lengths.astype(np.int64)
        prompt = lengths[ends[:-1]]
        longest = np.maximum.reduceat(np.where(_firsts(ends, len(lengths)), 0, lengths), ends[:-1])
        return Sizes(prompt, np.add.reduceat(lengths, ends[:-1]) - prompt, longest, np.diff(ends) - 1)


def _firsts(ends: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """[n] bool, where a row begins."""
    out = np.zeros(n, np.bool_)
    out[ends[:-1]] = True
    return out


class Held:
    """Pieces in memory."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self.batches = batches
        self.rows = tuple(map(len, batches))

    def piece(self, n: int) -> pa.RecordBatch:
        return self.batches[n]


NO_SIZES = Sizes(*[np.empty(0, np.int64)] * 4)


class StoredExamples(Sequence[Example]):
    """Examples that are decoded when they are asked for.

    Args:
        pieces: the columns, on disk or in memory.
        ref_logps: the reference's log-prob of each response, one example after the other, where known.
    """

    def __init__(self, pieces: Pieces | Held, ref_logps: NDArray[np.float32] | None = None) -> None:
        self.pieces, self.ref_logps = pieces, ref_logps
        self._ends = list(accumulate(pieces.rows))
        self._block = lru_cache(256)(lambda n: _Block(pieces.piece(n)))

    @property
    def folder(self) -> Path | None:
        """Where the examples lie, if not in memory."""
        return self.pieces.folder if isinstance(self.pieces, Pieces) else None

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredExamples, (self.pieces, self.ref_logps)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> list[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | list[Example]:
        if isinstance(at, slice):
            return [self[n] for n in range(*at.indices(len(self)))]
        row = at + len(self) if at < 0 else at
        if not 0 <= row < len(self):
            raise IndexError(at)
        name, values = self._row(row)
        known = None if self.ref_logps is None else self.ref_logps[slice(*self.starts[row : row + 2])]
        return whole(name, values, None if known is None else torch.from_numpy(known.copy()))

    def encoded(self, row: int) -> Encoded:
        """The tokens of an example alone (0 <= row < len)."""
        return columns.encoded(*self._row(row))

    def _row(self, row: int) -> tuple[str, Flat]:
        n = bisect_right(self._ends, row)
        return self._block(n).row(row - (self._ends[n] - self.pieces.rows[n]))

    def __iter__(self) -> Iterator[Example]:
        return (self[n] for n in range(len(self)))

    @cached_property
    def sizes(self) -> Sizes:
        """How many tokens they have, without a look at each."""
        found = [_Block(self.pieces.piece(n)).sizes() for n, rows in enumerate(self.pieces.rows) if rows]
        return Sizes(*map(np.concatenate, zip(*(found or [NO_SIZES]), strict=True)))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """[N + 1], the number of responses before each example."""
        return np.concatenate([[0], self.sizes.k.cumsum()])

    def with_reference(self, ref_logps: NDArray[np.float32]) -> StoredExamples:
        """The same with the reference's log-prob of each response, one example after the other."""
        return StoredExamples(self.pieces, ref_logps)
