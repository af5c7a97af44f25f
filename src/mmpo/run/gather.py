"""Sources -> the data that training takes, merged and shaped, and the account of what became of them on the way."""

from __future__ import annotations

import os
import shutil
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmpo import __version__
from mmpo.batch import named
from mmpo.data.collect import Drawn, Whole, collect
from mmpo.data.digests import digest, joined
from mmpo.data.ledger import Ledger, in_words
from mmpo.data.load import listed
from mmpo.data.piecewise import by_prompt, parse_source
from mmpo.data.read import content, stamp
from mmpo.data.scale import Numbers, Scale, numbers_of
from mmpo.data.source import Source
from mmpo.data.stored import ORDER, StoredData, encode
from mmpo.errors import OnBadRow, UserError
from mmpo.needs import Wanted
from mmpo.pieces import Pieces, account, blobs, finish, in_pieces, kept, numbers, on_disk, write_piece
from mmpo.recipe import Shape
from mmpo.run.record import fingerprint
from mmpo.run.shaping import Counts, Shaping, told_of
from mmpo.types import VOICES, Datum, Method

FORMAT = 4
"""Of prepared data on disk; another number makes them anew, as does another version of mmpo."""


@dataclass(frozen=True)
class Gathered:
    """Data in the shape that training takes, and the account of what became of them on the way.

    Data that were read from sources lie on disk, those that were given as a list in memory. ``scale`` is that of the
    grades, where they were rescaled. ``offset`` says that the column margin was declared an additive offset.
    """

    data: Sequence[Datum]
    record: dict[str, Any]
    account: list[str]
    scale: Scale | None = None
    offset: bool = False

    @property
    def fingerprint(self) -> str:
        """A short name for exactly these data."""
        return fingerprint(self.data)


def gather(
    sources: Any,
    shape: Shape,
    seed: int,
    on_bad_row: OnBadRow = "error",
    like: Gathered | None = None,
    method: Method | None = None,
    cache: Path | str | None = None,
    workers: int | None = None,
    voices: str | None = None,
) -> Gathered:
    """Load and shape data: anything ``mmpo.data.load`` takes, or a list of Datum.

    Held-out data take the scale of the training data, ``like``, and keep all their comparisons. What ``method`` would
    read for nothing is left out first, and counted. What is read from sources is prepared on disk, in memory that does
    not grow with the data, and found there the next time.

    Args:
        cache: the folder of prepared data; default as ``mmpo.pieces.cache_home``.
        workers: processes that prepare; default: the cores that this process may use.
        voices: whose voices the method is to tell apart; default: what it says.
    """
    shaping = Shaping(
        shape if like is None else Shape(rescale=shape.rescale),
        seed,
        None if method is None else Wanted.by(method, voices),
        None if like is None else like.scale,
    )
    if isinstance(sources, list | tuple) and all(isinstance(item, Datum) for item in sources):
        return _in_memory(sources, shaping)
    return _on_disk(listed(sources, on_bad_row), shaping, on_bad_row, cache, workers or cores())


def cores() -> int:
    """The cores that this process may use, shared with the other processes of a launcher on this machine."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, mine // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _in_memory(data: Sequence[Datum], shaping: Shaping) -> Gathered:
    counts: Counts = defaultdict(Counter)
    groups = shaping.merged(data, counts)
    shaping = shaping.scaled(lambda: numbers_of(datum for _, group in groups for datum in group))
    out = [datum for _, datum in shaping.shaped(groups, counts)]
    told = told_of(counts)
    lines = [line for step, done in told.items() for line in in_words(step, done)]
    return Gathered(out, {"data": len(data), "shaping": told}, lines, shaping.scale)


# ---------------------------------------------------------------------------------------------- on disk


def _on_disk(
    sources: Sequence[Source], shaping: Shaping, on_bad_row: OnBadRow, cache: Path | str | None, workers: int
) -> Gathered:
    stamps = [stamp(source) for source in sources]
    key = {
        "format": [FORMAT, __version__],
        "sources": [{**asdict(source), "content": content(source)} for source in sources],
        "on_bad_row": repr(on_bad_row),
        **shaping.key(),
    }
    with kept("data", key, cache) as folder:
        told = account(folder)
        how = "kept" if told is None else "known"
        if told is None:
            told = _filled(folder, sources, stamps, shaping, on_bad_row, workers)
            finish(folder, told)
        for left in folder.glob("work-*"):
            shutil.rmtree(left, ignore_errors=True)
    return Gathered(
        StoredData.open(folder),
        told["record"],
        [*told["account"], f"prepared data: {how} in {folder}"],
        told["scale"] and Scale(**told["scale"]),
        told["offset"],
    )


def _filled(
    folder: Path,
    sources: Sequence[Source],
    stamps: Sequence[Any],
    shaping: Shaping,
    on_bad_row: OnBadRow,
    workers: int,
) -> dict[str, Any]:
    """Make all pieces of the folder, and tell of them. What is only needed on the way lies in folders ``work-...``."""
    found = [parse_source(one, folder / f"work-rows-{n}", on_bad_row, workers) for n, one in enumerate(sources)]
    for source, before in zip(sources, stamps, strict=True):
        if stamp(source) != before:
            raise UserError(f"{source.path}: changed while it was read; start again when it is whole")
    ledgers, rows, parsed = zip(*found, strict=True)
    each = zip(rows, sources, ledgers, strict=True)
    drawn = Drawn.chain([collect(*one, shaping.seed + n) for n, one in enumerate(each)])
    ledger = Ledger.total(ledgers)
    ledger.check(on_bad_row)
    ledger.check_feedback()
    cut = by_prompt(drawn, rows, parsed)
    shaping = shaping.scaled(partial(_numbers, folder / "work-numbers", cut, drawn, parsed, shaping, workers))
    work = partial(_prepare, drawn, parsed, shaping)
    counts: Counts = defaultdict(Counter)
    voices: dict[str, set[str]] = defaultdict(set)
    pieces = []
    for summary in in_pieces(cut, work, folder, workers, "preparing data", len(drawn)):
        for step, done in summary["counts"].items():
            counts[step].update(done)
        for kind, names in summary["voices"].items():
            voices[kind].update(names)
        pieces.append(summary["rows"])
    told = told_of(counts)
    return {
        "record": {**ledger.as_dict(), "shaping": told},
        "account": ledger.summary() + [line for step, done in told.items() for line in in_words(step, done)],
        "offset": "offset" in ledger.provides,
        "scale": shaping.scale and asdict(shaping.scale),
        "voices": {kind: sorted(voices[kind]) for kind in VOICES},
        "pieces": pieces,
        **_in_order(folder, Pieces(folder, pieces)),
    }


def _numbers(
    folder: Path, cut: Sequence[Whole], drawn: Drawn, parsed: Sequence[StoredData], shaping: Shaping, workers: int
) -> Numbers:
    """The ``numbers_of`` all merged data."""
    folder.mkdir(exist_ok=True)
    work = partial(_count, drawn, parsed, shaping)
    told = list(in_pieces(cut, work, folder, workers, "reading grades", len(drawn)))
    pieces = Pieces(folder, [one["numbers"] for one in told])
    ends = np.cumsum(pieces.rows)[:-1]
    number, kind = (np.split(pieces.column(name), ends) for name in ("number", "kind"))
    found: Numbers = {}
    for one, values, of in zip(told, number, kind, strict=True):
        for n, name in enumerate(one["kinds"]):
            found.setdefault(name, array("d")).frombytes(values[of == n].tobytes())
    return found


def _count(drawn: Drawn, parsed: Sequence[StoredData], shaping: Shaping, which: Whole, path: Path) -> dict[str, Any]:
    groups = shaping.merged(drawn.take(which).data(parsed), defaultdict(Counter))
    found = numbers_of(datum for _, group in groups for datum in group)
    kind = np.repeat(np.arange(len(found)), [len(line) for line in found.values()])
    write_piece(path, {"number": numbers(np.concatenate(list(found.values()))), "kind": numbers(kind)})
    return {"rows": len(which), "numbers": len(kind), "kinds": list(found)}


def _prepare(drawn: Drawn, parsed: Sequence[StoredData], shaping: Shaping, which: Whole, path: Path) -> dict[str, Any]:
    """One piece of prepared data."""
    counts: Counts = defaultdict(Counter)
    out = shaping.shaped(shaping.merged(drawn.take(which).data(parsed), counts), counts)
    data = [datum for _, datum in out]
    lines = [encode(datum) for datum in data]
    columns = {
        "datum": blobs(lines),
        "place": numbers(which[np.array([n for n, _ in out], np.int64)]),
        "digest": numbers(joined(b"".join(map(digest, lines)))),
    }
    write_piece(path, columns)
    return {"rows": len(out), "counts": counts, "voices": named(data)}


def _in_order(folder: Path, pieces: Pieces) -> dict[str, Any]:
    """The digest of the data in their order, which is that of their first rows; where the pieces have another, it is
    written down. Rows of one prompt may be far apart, and are data of their own if they are of two splits, say."""
    place, digests = pieces.column("place"), pieces.column("digest")
    ordered = bool((np.diff(place) < 0).any())
    if ordered:
        order = np.argsort(place, kind="stable")
        digests = digests[order]
        with on_disk(folder):
            np.save(folder / ORDER, order)
    return {"ordered": ordered, "digest": digest(digests.tobytes()).hex()}
