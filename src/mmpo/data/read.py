"""A path -> its raw rows, numbered from 1, in chunks that are read one after the other and may be parsed anywhere."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import file_digest, sha256
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from mmpo.data.rows import BadRow, checked, from_json, from_line, too_deep
from mmpo.data.source import Source
from mmpo.errors import UserError, first_line

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")

_FEATURES = b"huggingface"
"""Where a table keeps what ``datasets`` knows of its columns."""

_OPEN_NOTHING = {"Value", "ClassLabel", "List", "LargeList", "Sequence", "Json", "Translation"} | {
    "TranslationVariableLanguages",
    *(f"Array{n}D" for n in range(2, 6)),
}
"""Kinds of columns that are all there; the others may be elsewhere."""

CHUNK = 1 << 22
"""Bytes of a chunk, and a row more. What is kept of data on disk depends on it."""

_MOST = 10_000
"""Rows of a table in a chunk."""

Numbered = Iterator[tuple[int, "dict[str, Any] | BadRow"]]


class Chunk(Protocol):
    """Rows that follow each other; it can be sent to another process."""

    def rows(self) -> Numbered:
        """Each with its number in the source. A row that is no JSON object is a BadRow."""
        ...


def read(source: Source) -> Numbered:
    """The rows of a source with their 1-based number (of a .jsonl: the line). A row that is no JSON object is a BadRow.

    Raises UserError where there is nothing to read.
    """
    return chain.from_iterable(chunk.rows() for chunk in chunks(source))


def chunks(source: Source) -> Iterator[Chunk]:
    """The same rows in chunks of some megabytes; all but a .json are never in memory as a whole."""
    path = Path(source.path)
    if path.is_dir():
        return _dataset(_saved(source))
    suffix = _suffix(source)
    if suffix is None:
        return _dataset(_hub(source))
    if suffix == ".json":
        return _listed(_json(path))
    if suffix in (".jsonl", ".jsonl.gz"):
        return _lines(path)
    return _tables(_parquet(path) if suffix == ".parquet" else _csv(path))


def has_own_splits(source: Source) -> bool:
    """Whether ``split`` names a part of the source, and not a field of its rows."""
    return Path(source.path).is_dir() or not source.path.endswith(SUFFIXES)


# ---------------------------------------------------------------------------------------------- what is read


def content(source: Source) -> str:
    """A digest of all bytes of a file or folder, and of a hub id what ``datasets`` calls its fingerprint."""
    path = Path(source.path)
    if not path.is_dir() and _suffix(source) is None:
        return str(_hub(source)._fingerprint)
    told = sha256()
    for file in _files(path):
        with file.open("rb") as opened:
            told.update(file_digest(opened, "sha256").digest())
    return told.hexdigest()


def stamp(source: Source) -> list[tuple[int, int]]:
    """Size and time of change of what is read, to see whether it changed meanwhile."""
    found = [file.stat() for file in _files(Path(source.path))]
    return [(one.st_size, one.st_mtime_ns) for one in found]


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.is_file() else []


def _suffix(source: Source) -> str | None:
    """Which kind of file it is, None for a hub id. Raises UserError where it is neither."""
    path = Path(source.path)
    suffix = next((s for s in SUFFIXES if source.path.endswith(s)), None)
    if suffix is None and path.is_file():
        raise UserError(f"{source.path}: unknown kind of file; give one of {', '.join(SUFFIXES)}")
    if suffix is None and not _HUB_ID.fullmatch(source.path):
        raise UserError(f"{source.path}: there is no such file or folder; check the path")
    if suffix is not None and not path.is_file():
        raise UserError(f"{source.path}: there is no such file; check the path")
    return suffix


# ---------------------------------------------------------------------------------------------- lines


@dataclass(frozen=True)
class _Lines:
    first: int
    lines: bytes

    def rows(self) -> Numbered:
        for n, line in enumerate(self.lines.split(b"\n"), self.first):
            if line.strip():
                yield n, from_line(line)


def _lines(path: Path) -> Iterator[Chunk]:
    with path.open("rb") as raw:
        lines = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        first, n, size, held = 1, 0, 0, list[bytes]()
        try:
            for n, line in enumerate(lines, 1):
                held.append(line)
                size += len(line)
                if size >= CHUNK:
                    yield _Lines(first, b"".join(held))
                    first, size, held = n + 1, 0, []
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(
                f"{path}: broken after line {n} ({first_line(error)}); make or download it again"
            ) from error
        if held:
            yield _Lines(first, b"".join(held))


# ---------------------------------------------------------------------------------------------- one list


@dataclass(frozen=True)
class _Listed:
    first: int
    values: list[Any]

    def rows(self) -> Numbered:
        return ((n, checked(row)) for n, row in enumerate(self.values, self.first))


def _listed(rows: list[Any]) -> Iterator[Chunk]:
    size = 1000
    return (_Listed(n + 1, rows[n : n + size]) for n in range(0, len(rows), size))


def _json(path: Path) -> list[Any]:
    try:
        rows = from_json(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a JSON file ({error}); for one object a line name it .jsonl") from error
    except (BadRow, RecursionError) as error:
        raise UserError(f"{path}: {error if isinstance(error, BadRow) else too_deep()}") from error
    if isinstance(rows, dict):
        lists = [value for value in rows.values() if isinstance(value, list)]
        rows = lists[0] if len(rows) == 1 and lists else None
    if not isinstance(rows, list):
        raise UserError(f"{path}: holds no list of rows; give [{{...}}, ...], or one object a line in a .jsonl")
    return rows


# ---------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class _Table:
    first: int
    stream: bytes
    """An Arrow stream; a table sent as it is would take along all of which it is a part."""

    def rows(self) -> Numbered:
        from datasets import Dataset

        table = _unopened(pa.ipc.open_stream(self.stream).read_all())
        # The data set decodes what it says of its columns; the fingerprint saves it from hashing them.
        columns = Dataset(table, fingerprint="chunk")[:]
        for n, row in enumerate(zip(*columns.values(), strict=True), self.first):
            yield n, dict(zip(columns, row, strict=True))


def _unopened(table: pa.Table) -> pa.Table:
    """The table without leave to open the files and addresses that a column of pictures or sound names."""

    def closed(said: Any) -> Any:
        if isinstance(said, list):
            return [closed(one) for one in said]
        if not isinstance(said, dict):
            return said
        kind = said.get("_type")
        media = isinstance(kind, str) and kind not in _OPEN_NOTHING
        return {key: closed(value) for key, value in said.items()} | ({"decode": False} if media else {})

    said = (table.schema.metadata or {}).get(_FEATURES)
    if said is None:
        return table
    return table.replace_schema_metadata({**table.schema.metadata, _FEATURES: json.dumps(closed(json.loads(said)))})


def _tables(tables: Iterable[pa.Table]) -> Iterator[Chunk]:
    first = 1
    for table in tables:
        if table.num_rows:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as out:
                out.write_table(table)
            yield _Table(first, sink.getvalue().to_pybytes())
        first += table.num_rows


def _together(size: int, rows: int) -> int:
    """How many rows make a chunk."""
    return max(1, min(_MOST, CHUNK * rows // max(size, 1)))


def _parquet(path: Path) -> Iterator[pa.Table]:
    from pyarrow.parquet import ParquetFile

    with _readable(path, "parquet"), ParquetFile(path) as file:
        groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
        rows = _together(sum(group.total_byte_size for group in groups), file.metadata.num_rows)
        for batch in file.iter_batches(rows, use_threads=False):
            yield _sound(pa.Table.from_batches([batch]))


def _csv(path: Path) -> Iterator[pa.Table]:
    """A column of numbers, where all its cells are numbers; else all its cells are texts as they stand in the file."""
    import pandas as pd  # type: ignore[import-untyped]

    # Only an empty cell is missing: "NA" and "None" may be answers.
    read = partial(pd.read_csv, path, chunksize=_MOST, keep_default_na=False, na_values=[""], low_memory=False)
    text: set[str] = set()
    with _readable(path, "csv"):
        # All of it is looked at first, for the numbers among texts must be read as texts: 4.50 would become 4.5.
        with read() as frames:
            for frame in frames:
                if len(frame.columns) == 1 and re.search(r"[;\t|]", str(frame.columns[0])):
                    raise UserError(
                        f"{path}: has the one column {frame.columns[0]!r}; a .csv must be written with commas"
                    )
                text.update(name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name]))
        with read(dtype=dict.fromkeys(text, str)) as frames:
            for frame in frames:
                yield _sound(pa.Table.from_pandas(frame, preserve_index=False))


def _sound(table: pa.Table) -> pa.Table:
    if any("\0" in name for name in table.column_names):
        raise ValueError("the name of a column holds a NUL character")
    table.validate(full=True)  # above all, that texts are UTF-8
    return table


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, ValueError, OSError, OverflowError) as error:
        raise UserError(f"{path}: cannot be read as {kind} ({first_line(error)})") from error


def _dataset(found: Any) -> Iterator[Chunk]:
    rows = _together(found.data.nbytes, len(found))
    return _tables(found.with_format("arrow").iter(rows))


def _saved(source: Source) -> Any:
    from datasets import load_from_disk

    try:
        return _one_split(load_from_disk(source.path), source)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{source.path}: no folder written by save_to_disk ({first_line(error)})") from error


def _hub(source: Source) -> Any:
    from datasets import load_dataset

    try:
        found = load_dataset(source.path, split=source.split)
    except Exception as error:  # the hub client raises many kinds, and all mean the same to the user
        raise UserError(
            f"{source.path}: neither a file here nor a data set that the hub gave ({first_line(error)}); check it"
        ) from error
    return found if source.split else _one_split(found, source)


def _one_split(found: Any, source: Source) -> Any:
    from datasets import DatasetDict

    if not isinstance(found, DatasetDict):
        if source.split is None:
            return found
        raise UserError(f"{source.path}: split is {source.split!r}, but the folder holds one data set; leave it out")
    name = source.split or (next(iter(found)) if len(found) == 1 else None)
    if name not in found:
        raise UserError(f"{source.path}: split is {name!r}; it has {', '.join(found)}; say which split")
    return found[name]
