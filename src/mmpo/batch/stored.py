"""Examples in columns: on disk and memory-mapped, or in memory, one class for both.

Every value of an example is a flat list of numbers in a column of its own. What is empty there takes no room: votes of
which there are none, gaps that nobody stated, responses of which none has a role.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate, chain, pairwise
from math import prod
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmpo.batch.example import Example, Sizes
from mmpo.batch.tokenize import Encoded
from mmpo.errors import UserError, nearest
from mmpo.pieces import Pieces, blobs
from mmpo.types import ROLES, Evidence, People

Flat = Mapping[str, NDArray[Any]]
"""The values of one example by column, [n] each; a column that it leaves out is empty for it."""

IDS = "id"
COLUMNS: dict[str, Any] = {
    "tokens": np.int32,  # of the prompt, then of each response
    "lengths": np.int32,  # of the prompt and of each response
    "cuts": np.int32,  # of the prompt and of each response
    "moved": np.int8,  # present where the boundary moved
    "openings": np.int32,
    "marks": np.int32,  # the number of marked tokens of each response
    "marked": np.int32,  # their places, response by response
    "roles": np.int8,  # of each response: 0, or 1 + its number in ROLES
    "quality": np.float32,
    "weight": np.float32,
    "votes": np.float32,
    "stated": np.float32,
    "contrasts": np.float32,
    "contrast_p": np.float32,
    "contrast_weight": np.float32,
    "who": np.int32,
    "who_quality": np.float32,
    "who_votes": np.float32,
    "who_stated": np.float32,
    "who_weight": np.float32,
}


ZERO, NAN = np.array([0, np.nan], np.float32).view(np.int32)
"""The bits of what stands where nothing was said."""

SHARED = 4096
"""Numbers of the largest constant tensor that examples share."""

# ---------------------------------------------------------------------------------------------- one example


def flat(example: Example) -> dict[str, NDArray[Any]]:
    """An example as columns, the reference log-probs left out. Raises UserError for a role that nobody knows."""
    encoded, said = example.encoded, example.evidence
    people = said.people
    values: dict[str, Any] = {
        "tokens": list(chain(encoded.prompt, *encoded.responses)),
        "lengths": [len(encoded.prompt), *map(len, encoded.responses)],
        "cuts": [encoded.prompt_cut, *encoded.response_cut],
        "moved": [1] * encoded.boundary_moved,
        "openings": encoded.openings,
        "marks": list(map(len, encoded.marks)),
        "marked": list(chain(*encoded.marks)),
        "roles": _role_codes(encoded.id, said.roles),
        "quality": said.quality,
        "weight": said.weight,
        "votes": _unless(said.votes, ZERO),
        "stated": _unless(said.stated, NAN),
        "contrasts": said.contrasts,
        "contrast_p": said.contrast_p,
        "contrast_weight": said.contrast_weight,
    }
    if people is not None:
        values |= {
            "who": people.who,
            "who_quality": people.quality,
            "who_votes": _unless(people.votes, ZERO),
            "who_stated": _unless(people.stated, NAN),
            "who_weight": people.weight,
        }
    return {name: np.asarray(value, COLUMNS[name]).reshape(-1) for name, value in values.items() if value is not None}


def _unless(values: Tensor, fill: np.int32) -> NDArray[np.float32] | None:
    """The values, or None where all of them are the fill, to the bit."""
    found: NDArray[np.float32] = values.numpy()
    return None if (found.view(np.int32) == fill).all() else found


def _role_codes(name: str, roles: Mapping[str, Tensor]) -> NDArray[np.int8] | None:
    if not roles:
        return None
    for role in roles.keys() - set(ROLES):
        raise UserError(f"{name}: unknown role {role!r}. {nearest(role, ROLES)}")
    return sum((1 + ROLES.index(role)) * mask.numpy().astype(np.int8) for role, mask in roles.items())  # type: ignore[return-value]


def whole(name: str, at: Flat, ref_logps: Tensor | None = None) -> Example:
    """The example that ``flat`` was given, to the bit."""
    return Example(_encoded(name, at), _evidence(at), ref_logps)


def _encoded(name: str, at: Flat) -> Encoded:
    tokens, lengths, cuts = (at[column].tolist() for column in ("tokens", "lengths", "cuts"))
    texts = _parts(tokens, lengths)
    return Encoded(
        id=name,
        prompt=texts[0],
        responses=texts[1:],
        prompt_cut=cuts[0],
        response_cut=tuple(cuts[1:]),
        boundary_moved="moved" in at,
        openings=tuple(at["openings"].tolist()) if "openings" in at else (),
        marks=_parts(at["marked"].tolist() if "marked" in at else [], at["marks"].tolist()) if "marks" in at else (),
    )


def _parts(values: Sequence[int], lengths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    ends = list(accumulate(lengths, initial=0))
    return tuple(tuple(values[a:b]) for a, b in pairwise(ends))


def _evidence(at: Flat) -> Evidence:
    k = len(at["lengths"]) - 1
    square = (1, k, k)

    def found(column: str, *shape: int) -> Tensor | None:
        return torch.from_numpy(at[column].copy()).view(shape) if column in at else None

    def said(column: str, fill: float, *shape: int) -> Tensor:
        values = found(column, *shape)
        return _constant(fill, shape) if values is None else values

    return Evidence(
        mask=_constant(True, (1, k)),
        quality=said("quality", torch.nan, 1, k),
        stated=said("stated", torch.nan, *square),
        votes=said("votes", 0.0, *square),
        weight=said("weight", 0.0, *square),
        people=_people(at, k, said) if "who" in at else None,
        roles=_roles(at["roles"]) if "roles" in at else {},
        contrasts=found("contrasts", 1, -1, k),
        contrast_p=found("contrast_p", 1, -1),
        contrast_weight=found("contrast_weight", 1, -1),
    )


def _people(at: Flat, k: int, said: Callable[..., Tensor]) -> People:
    a = len(at["who"])
    return People(
        torch.from_numpy(at["who"].astype(np.int64))[None],
        said("who_quality", torch.nan, 1, a, k),
        said("who_votes", 0.0, 1, a, k, k),
        said("who_stated", torch.nan, 1, a, k, k),
        said("who_weight", 0.0, 1, a, k, k),
    )


def _constant(value: float | bool, shape: tuple[int, ...]) -> Tensor:
    """Nobody writes into evidence, so that one such tensor serves all examples."""
    return _full(value, shape) if prod(shape) <= SHARED else torch.full(shape, value)


_full = lru_cache(256, typed=True)(lambda value, shape: torch.full(shape, value))


def _roles(codes: NDArray[np.int8]) -> dict[str, Tensor]:
    return {ROLES[code - 1]: torch.from_numpy(codes == code)[None] for code in dict.fromkeys(codes.tolist()) if code}


# ---------------------------------------------------------------------------------------------- many examples


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
        return _encoded(*self._row(row))

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
