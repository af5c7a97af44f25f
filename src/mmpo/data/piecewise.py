"""The walk of large data on disk: chunks of a source become parsed rows, and rows of whole prompts become data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmpo.data.collect import Drawn, Rows, Whole
from mmpo.data.digests import firsts
from mmpo.data.ledger import Ledger
from mmpo.data.parse import Account, parse
from mmpo.data.read import CHUNK, Chunk, chunks
from mmpo.data.source import Source
from mmpo.data.stored import StoredData, encode
from mmpo.errors import AtMost, OnBadRow
from mmpo.pieces import Pieces, blobs, in_pieces, numbers, write_piece

_EACH = 500
"""What a datum counts for beside its bytes, where data are cut into pieces."""


def parse_source(source: Source, folder: Path, on_bad_row: OnBadRow, workers: int) -> tuple[Ledger, Rows, StoredData]:
    """Parse a source into the pieces of a folder. Raises UserError as ``load`` does."""
    told = Account(Ledger(source.path))

    def tasks() -> Iterator[tuple[Chunk, int | None]]:
        for chunk in chunks(source):
            yield chunk, None if source.limit is None else source.limit - told.ledger.rows_used
            if told.stopped is not None:
                return

    folder.mkdir(exist_ok=True)
    # How many rows the next chunk may give is known when this one is parsed.
    workers = 1 if source.limit is not None else workers
    sizes = []
    for summary in in_pieces(tasks(), partial(_parse, source, on_bad_row), folder, workers, f"reading {source.path}"):
        told.add(Account.from_dict(summary["account"]))
        sizes.append(summary["rows"])
        if isinstance(on_bad_row, AtMost) and on_bad_row.most >= 1:
            told.ledger.check(on_bad_row)
    ledger = told.close(source)
    pieces = Pieces(folder, sizes)
    return ledger, Rows(**{name: pieces.column(name) for name in Rows.columns()}), StoredData(pieces)


def _parse(source: Source, on_bad_row: OnBadRow, task: tuple[Chunk, int | None], path: Path) -> dict[str, Any]:
    chunk, most = task
    told = Account(Ledger(source.path))
    data = list(parse(chunk.rows(), source, told, on_bad_row, most))
    rows = Rows.of(data)
    known = {name: numbers(getattr(rows, name)) for name in Rows.columns()}
    write_piece(path, {"datum": blobs(list(map(encode, data))), **known})
    return {"rows": len(data), "account": told.as_dict()}


def by_prompt(drawn: Drawn, rows: Sequence[Rows], parsed: Sequence[StoredData]) -> list[Whole]:
    """The numbers of the data cut into pieces of some megabytes, each with all data of its prompts, in the order in
    which prompts come first; ascending within a piece.

    Args:
        drawn: of all sources.
        rows, parsed: of each source.
    """
    lengths = [one.pieces.lengths("datum") for one in parsed]
    starts = drawn.starts
    prompt = np.empty(len(drawn), "V16")
    cost = np.empty(len(drawn), np.int64)
    of_row = np.repeat(drawn.source, drawn.ends - starts)
    row_cost = np.empty(len(drawn.rows), np.int64)
    for n, (known, length) in enumerate(zip(rows, lengths, strict=True)):
        prompt[drawn.source == n] = known.prompt[drawn.rows[starts[drawn.source == n]]]
        row_cost[of_row == n] = length[drawn.rows[of_row == n]]
    cost = np.add.reduceat(row_cost, starts) + _EACH
    first = firsts(prompt)
    order = np.argsort(first, kind="stable")
    begins = np.flatnonzero(np.diff(first[order], prepend=-1))
    before = (np.cumsum(cost[order]) - cost[order])[begins] // CHUNK
    cuts = begins[np.flatnonzero(np.diff(before, prepend=0))]
    return [np.sort(piece) for piece in np.split(order, cuts)]
