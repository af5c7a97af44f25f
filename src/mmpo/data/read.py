"""A path -> its raw rows, numbered from 1."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mmpo.data.rows import BadRow, checked, from_json, from_line, too_deep
from mmpo.data.source import Source
from mmpo.errors import UserError, first_line

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_LARGE = 5_000_000
"""Files above this many bytes show a progress bar."""

Numbered = Iterator[tuple[int, "dict[str, Any] | BadRow"]]


def read(source: Source) -> Numbered:
    """The rows of a source with their 1-based number (of a .jsonl: the line). A row that is no JSON object is a BadRow.

    Raises UserError where there is nothing to read.
    """
    path = Path(source.path)
    if path.is_dir():
        return _table(_saved(source), source.path)
    suffix = next((s for s in SUFFIXES if source.path.endswith(s)), None)
    if suffix is None:
        if path.is_file():
            raise UserError(f"{source.path}: unknown kind of file; give one of {', '.join(SUFFIXES)}")
        if not _HUB_ID.fullmatch(source.path):
            raise UserError(f"{source.path}: there is no such file or folder; check the path")
        return _table(_hub(source), source.path)
    if not path.is_file():
        raise UserError(f"{source.path}: there is no such file; check the path")
    if suffix in (".jsonl", ".jsonl.gz"):
        return _lines(path)
    if suffix == ".json":
        return _json(path)
    return _table(_loaded(suffix, source.path), source.path)


def has_own_splits(source: Source) -> bool:
    """Whether ``split`` names a part of the source, and not a field of its rows."""
    return Path(source.path).is_dir() or not source.path.endswith(SUFFIXES)


def _lines(path: Path) -> Numbered:
    size = path.stat().st_size
    with (
        path.open("rb") as raw,
        tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=size < _LARGE or None) as bar,
    ):
        lines = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        n = 0
        try:
            for n, line in enumerate(lines, 1):
                bar.update(raw.tell() - bar.n)
                if line.strip():
                    yield n, from_line(line)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(
                f"{path}: broken after line {n} ({first_line(error)}); make or download it again"
            ) from error


def _json(path: Path) -> Numbered:
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
    return ((n, checked(row)) for n, row in enumerate(rows, 1))


def _table(rows: Iterable[Any], name: str) -> Numbered:
    bar = tqdm(rows, unit=" rows", desc=name, disable=len(rows) < 50_000 or None)  # type: ignore[arg-type]
    return ((n, dict(row)) for n, row in enumerate(bar, 1))


def _loaded(suffix: str, path: str) -> Any:
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        if suffix == ".parquet":
            return Dataset.from_parquet(path, keep_in_memory=True)
        # Only an empty cell is missing: "NA" and "None" may be answers.
        return Dataset.from_csv(path, keep_in_memory=True, keep_default_na=False, na_values=[""])
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as {suffix[1:]} ({first_line(error)})") from error


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
