"""Data on disk: a Datum as one line of JSON and back, and a memory-mapped sequence of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from mmpo.errors import UserError
from mmpo.pieces import Pieces, account
from mmpo.types import About, Contrast, Datum, Judgement

ORDER = "order.npy"
"""Which row of the pieces each datum is, where they are in another order."""

# ---------------------------------------------------------------------------------------------- one datum

# What JSON does not have, such as the times that a table may hold in a message, becomes text, as in texts.key.
_WRITE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode
_DEFAULTS = {f.name: f.default for f in fields(Datum)} | {"annotator_grades": {}, "attributes": {}}


def encode(datum: Datum) -> bytes:
    """All of a datum as JSON, without what has its default. Halves of surrogate pairs are kept as they are."""
    told: dict[str, Any] = {
        name: value for name, default in _DEFAULTS.items() if (value := getattr(datum, name)) != default
    }
    if "judgements" in told:
        told["judgements"] = [(j.first, j.second, j.p, j.count, j.gap, j.weight, j.annotator) for j in datum.judgements]
    for name in told.keys() & {"annotator_grades", "attributes"}:
        told[name] = dict(told[name])
    if "about" in told:
        told["about"] = [(own.prompt, own.role, own.marks) for own in datum.about]
    if "contrasts" in told:
        told["contrasts"] = [(c.coefficients, c.p, c.weight) for c in datum.contrasts]
    return _WRITE(told).encode("utf-8", "surrogatepass")


def decode(line: bytes) -> Datum:
    """The datum that ``encode`` wrote."""
    told = json.loads(line.decode("utf-8", "surrogatepass"))
    told["responses"] = tuple(told["responses"])
    if "grades" in told:
        told["grades"] = tuple(told["grades"])
    if "pairs" in told:
        told["pairs"] = _tuples(told["pairs"])
    if "judgements" in told:
        told["judgements"] = tuple(Judgement(*one) for one in told["judgements"])
    for name in told.keys() & {"annotator_grades", "attributes"}:
        told[name] = {which: tuple(grades) for which, grades in told[name].items()}
    if "about" in told:
        told["about"] = tuple(About(prompt, role, _tuples(marks)) for prompt, role, marks in told["about"])
    if "contrasts" in told:
        told["contrasts"] = tuple(Contrast(tuple(values), p, weight) for values, p, weight in told["contrasts"])
    return Datum(**told)


def _tuples(lists: Iterable[Sequence[Any]]) -> tuple[Any, ...]:
    return tuple(tuple(one) for one in lists)


# ---------------------------------------------------------------------------------------------- many data


class StoredData(Sequence[Datum]):
    """Data in pieces on disk, memory-mapped: each datum is read when it is asked for.

    Args:
        pieces: whose column ``datum`` holds what ``encode`` wrote.
        order: [n] the row of each datum; None where that is their order.
    """

    def __init__(self, pieces: Pieces, order: NDArray[np.int64] | None = None) -> None:
        self.pieces, self._order = pieces, order

    @classmethod
    def open(cls, folder: Path) -> StoredData:
        """The data of a folder that is finished."""
        told = account(folder)
        if told is None:
            raise UserError(f"{folder}: holds no prepared data, or not all of them; prepare them again")
        order = np.load(folder / ORDER, mmap_mode="r") if told["ordered"] else None
        return cls(Pieces(folder, told["pieces"]), order)

    @property
    def folder(self) -> Path:
        return self.pieces.folder

    @cached_property
    def account(self) -> dict[str, Any]:
        """What is known of the data without reading them."""
        return account(self.folder) or {}

    @property
    def digest(self) -> str:
        """32 hex digits that stand for exactly these data in this order."""
        return str(self.account["digest"])

    @property
    def voices(self) -> dict[str, list[str]]:
        """The annotators, attributes and subsets that the data name, each sorted."""
        return {kind: list(names) for kind, names in self.account["voices"].items()}

    @property
    def sizes(self) -> NDArray[np.int64]:
        """[n], the bytes of each datum on disk, without a look at any."""
        sizes = self.pieces.lengths("datum")
        return sizes if self._order is None else sizes[self._order]

    def __reduce__(self) -> Any:
        return StoredData.open, (self.folder,)

    def __len__(self) -> int:
        return len(self.pieces)

    @overload
    def __getitem__(self, index: int) -> Datum: ...

    @overload
    def __getitem__(self, index: slice) -> list[Datum]: ...

    def __getitem__(self, index: int | slice) -> Datum | list[Datum]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        piece, at = self.pieces.find(row if self._order is None else int(self._order[row]))
        return decode(piece.column("datum")[at].as_py())

    def __iter__(self) -> Iterator[Datum]:
        return (self[n] for n in range(len(self)))
