"""Data -> examples: tokenised in pieces, by several processes where the data lie on disk, and kept there by content."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import pyarrow as pa
import tokenizers
import transformers
from numpy.typing import NDArray
from tqdm.auto import tqdm

from mmpo import __version__
from mmpo.batch.counts import Stated
from mmpo.batch.cuts import Cuts
from mmpo.batch.example import Example
from mmpo.batch.statements import Vocabulary
from mmpo.batch.stored import Growing, Held, StoredExamples
from mmpo.batch.tokenize import Limits, encoding
from mmpo.data.stored import StoredData
from mmpo.errors import OnBadRow, UserError
from mmpo.needs import Wanted
from mmpo.pieces import Pieces, account, finish, in_pieces, kept, write_piece
from mmpo.types import Datum

FORMAT = 2
"""Of examples on disk; another number makes them anew, as does another version of mmpo."""

_ROWS, _BYTES = 4096, 1 << 24
"""Data of a piece at most, and their bytes (or one datum)."""

_PIECES = 64
"""How many there should be, so that several processes end at about the same time, unless they were very small."""

_FEW = 64
"""Data of a piece at least, but for the last."""


@dataclass
class Told:
    """What became of data on their way to examples: what was cut and dropped, what was said about them, and what of
    them the method does not read."""

    cuts: Cuts
    stated: Stated = field(default_factory=Stated)
    idle: Counter[str] = field(default_factory=Counter)

    @classmethod
    def under(cls, limits: Limits) -> Told:
        return cls(Cuts(limits.max_length, limits.max_prompt_length))

    def __iadd__(self, more: Told) -> Self:
        self.cuts += more.cuts
        self.stated += more.stated
        self.idle.update(more.idle)
        return self

    def left_out(self) -> list[str]:
        """Lines on what the method does not read."""
        return [f"{n} {what} left out, since the method does not read them" for what, n in self.idle.items()]

    def as_dict(self) -> dict[str, Any]:
        return {"cuts": self.cuts.as_dict(), "stated": self.stated.as_dict(), "idle": dict(self.idle)}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Told:
        """What ``as_dict`` told."""
        return cls(Cuts.of(told["cuts"]), Stated.of(told["stated"]), Counter(told["idle"]))


@dataclass(frozen=True)
class Preparing:
    """How data become examples.

    Attributes:
        voices: with this vocabulary the evidence says who said what.
        wanted: what the method reads of a datum; None leaves each as it is.
    """

    tokenizer: Any
    limits: Limits
    on_bad_row: OnBadRow = "error"
    voices: Vocabulary | None = None
    wanted: Wanted | None = None

    def columns(self, data: Iterable[Datum]) -> tuple[dict[str, pa.Array], Told]:
        """The examples of some thousand data, as columns."""
        told, grown = Told.under(self.limits), Growing()
        bare = data if self.wanted is None else (self.wanted(datum, told.idle) for datum in data)
        for some in encoding(bare, self.tokenizer, self.limits, self.on_bad_row, told.cuts):
            examples = [Example.of(datum, encoded, self.voices) for datum, encoded in some]
            told.stated.add(examples)
            for example in examples:
                grown.add(example)
        return grown.columns(), told

    def key(self, digest: str) -> dict[str, Any]:
        """Everything that tells which examples the data with this digest become."""
        return {
            "format": [FORMAT, __version__],
            "data": digest,
            "tokenizer": tokenizer_digest(self.tokenizer),
            "limits": [self.limits.max_length, self.limits.max_prompt_length],
            "bad rows": "error" if self.on_bad_row == "error" else "drop",
            "voices": None if self.voices is None else [self.voices.kind, sorted(self.voices.numbers)],
            "wanted": None if self.wanted is None else self.wanted.key(),
        }


def prepare(
    data: Sequence[Datum],
    tokenizer: Any,
    limits: Limits,
    on_bad_row: OnBadRow = "error",
    voices: Vocabulary | None = None,
    *,
    wanted: Wanted | None = None,
    workers: int = 1,
) -> tuple[StoredExamples, Told]:
    """Data -> examples, and what became of the data. Raises UserError where nothing is left.

    Data that lie on disk become examples on disk, beside them, in so many processes (``workers``); where they are known
    there, nothing is done. With a vocabulary of ``voices`` the evidence says who said what.
    """
    way = Preparing(tokenizer, limits, on_bad_row, voices, wanted)
    examples, told = _stored(way, data, workers) if isinstance(data, StoredData) else _held(way, data)
    told.cuts.check(on_bad_row)
    if not examples:
        if not len(data):
            raise UserError("nothing is left to train on: no prompt has two different responses that were compared")
        raise UserError(f"no data is left after tokenising {len(data)} prompts; {told.cuts.summary()}")
    return examples, told


def _held(way: Preparing, data: Sequence[Datum]) -> tuple[StoredExamples, Told]:
    told, batches = Told.under(way.limits), []
    bar = iter(tqdm(data, desc="tokenising", unit="prompt", leave=False, mininterval=1.0))
    for start in range(0, len(data), _ROWS):
        columns, more = way.columns(next(bar) for _ in range(start, min(start + _ROWS, len(data))))
        batches.append(pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)))
        told += more
    return StoredExamples(Held(batches)), told


def _stored(way: Preparing, data: StoredData, workers: int) -> tuple[StoredExamples, Told]:
    with kept("examples", way.key(data.digest), data.folder.parent) as folder:
        known = account(folder)
        if known is None:
            known = _made(way, data, workers, folder)
    return StoredExamples(Pieces(folder, known["rows"])), Told.of(known)


def _made(way: Preparing, data: StoredData, workers: int, folder: Path) -> dict[str, Any]:
    """The examples on disk, piece by piece, and their account."""
    told, rows = Told.under(way.limits), []
    for summary in in_pieces(_tasks(data.sizes), partial(_piece, way, data), folder, workers, "tokenising", len(data)):
        told += Told.of(summary)
        rows.append(summary["examples"])
    known = {"rows": rows, **told.as_dict()}
    finish(folder, known)
    return known


def _tasks(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """The data from one number to another, for each piece."""
    ends = sizes.cumsum()
    most = min(_ROWS, max(_FEW, len(sizes) // _PIECES))
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + _BYTES, side="right"))
        stop = min(max(stop, start + 1), start + most, len(sizes))
        yield start, stop
        start = stop


def _piece(way: Preparing, data: StoredData, task: tuple[int, int], path: Path) -> dict[str, Any]:
    if multiprocessing.parent_process() is not None:
        # One of several processes; the threads of the tokenizer would only stand in their way.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    columns, told = way.columns(data[n] for n in range(*task))
    write_piece(path, columns)
    return {"rows": task[1] - task[0], "examples": told.cuts.prompts, **told.as_dict()}


def tokenizer_digest(tokenizer: Any) -> str:
    """What texts become with this tokenizer, in 32 hex digits: its vocabulary, rules, special tokens, chat template,
    and the versions of the libraries that read them. A template that asks for the date has another digest each day."""
    template = json.dumps(tokenizer.chat_template, sort_keys=True)
    told = {
        "class": type(tokenizer).__qualname__,
        "versions": [tokenizers.__version__, transformers.__version__],
        "template": template,
        "day": date.today().isoformat() if "strftime_now" in template else None,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "split_special_tokens": tokenizer.split_special_tokens,
        "rules": _rules(tokenizer),
    }
    return blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()


def _rules(tokenizer: Any) -> Any:
    """All that makes tokens of texts; what was cut and padded last does not count."""
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        return {name: value for name, value in rules.items() if name not in ("truncation", "padding")}
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.name: blake2b(path.read_bytes()).hexdigest() for path in files}
