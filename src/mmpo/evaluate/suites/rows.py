"""The rows of a suite, from the hub or from files in the published layout, as items."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpo.data.ledger import Ledger
from mmpo.data.read import SUFFIXES, read
from mmpo.data.rows import BadRow, Row
from mmpo.data.source import Source
from mmpo.data.texts import key
from mmpo.errors import OnBadRow, UserError, first_line
from mmpo.evaluate.suites.suite import Item, Part, Suite

SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")
"""Files by which a folder of ``save_to_disk`` is known."""

ELSEWHERE = "not of this suite"


def items_of(suite: Suite, path: str | None = None, on_bad_row: OnBadRow = "error") -> tuple[list[Item], Ledger]:
    """The items of a suite, and the account of its rows.

    Args:
        path: a file (.json, .jsonl, .jsonl.gz, .csv, .parquet), a folder of such files, or one written by
            ``Dataset.save_to_disk``, in the layout that was published; by default the rows are read from the hub.

    Raises:
        UserError: where there is nothing to read, or, if rows may not be dropped, for a row that cannot be used.
    """
    ledger = Ledger(path or suite.name)
    found: list[Item] = []
    seen: set[tuple[str, ...]] = set()
    again = 0
    for where, part, raw in _hub(suite) if path is None else _local(path):
        ledger.rows_in += 1
        try:
            item = _item(suite, raw, part, where)
        except BadRow as bad:
            if on_bad_row == "error":
                raise UserError(f"{where}: {bad} or drop the row (on_bad_row: drop)") from bad
            ledger.drop(bad.reason, where, str(bad))
            continue
        if item is None:
            ledger.drop(ELSEWHERE, where)
            continue
        own = (about.prompt or "" for about in item.datum.about)
        mark = tuple(key(text) for text in (item.datum.prompt, *item.datum.responses, item.datum.subset or "", *own))
        again += mark in seen
        seen.add(mark)
        ledger.rows_used += 1
        found.append(item)
    if not found:
        raise UserError(f"{ledger.name}: none of its {ledger.rows_in} rows is of {suite.title}; {ledger.summary()[0]}")
    ledger.check(on_bad_row)
    ledger.data = len(found)
    if again:
        ledger.notes.append(f"rows that say the same as an earlier one: {again}; each was counted")
    return found, ledger


def _item(suite: Suite, raw: dict[str, Any] | BadRow, part: str, where: str) -> Item | None:
    if isinstance(raw, BadRow):
        raise raw
    row = Row(raw)
    item = suite.read(row, part)
    name = str(row.value("id")) if row.has("id") else where
    return item and replace(item, datum=replace(item.datum, id=name, source=where))


Raw = Iterator[tuple[str, str, "dict[str, Any] | BadRow"]]
"""Where a row stands, the name of its part, and the row."""


def _local(path: str) -> Raw:
    for file in _files(path):
        for n, raw in read(Source(file)):
            yield f"{file}:{n}", _part(file), raw


def _part(file: str) -> str:
    """The name of a file without its endings, and without the number that the hub gives to shards."""
    return re.sub(r"-\d{5}-of-\d{5}$", "", Path(file).name.split(".")[0])


def _files(path: str) -> list[str]:
    folder = Path(path)
    if not folder.is_dir() or any((folder / name).is_file() for name in SAVED):
        return [path]
    files = sorted(str(file) for file in folder.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
    if not files:
        raise UserError(f"{path}: the folder holds no file of rows; give one of {', '.join(SUFFIXES)}")
    return files


def _hub(suite: Suite) -> Raw:
    for part in suite.hub:
        for n, row in enumerate(_fetched(suite, part), 1):
            yield f"{part.file or part.repository}:{n}", part.name, dict(row)


def _fetched(suite: Suite, part: Part) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(part.repository, split=part.split, data_files=part.file)
    except Exception as error:  # the hub client raises many kinds, and all mean the same to the user
        raise UserError(
            f"{suite.name}: its rows cannot be read from the hub, {part.repository} ({first_line(error)}); give files "
            f"that lie here: {suite.name}=PATH"
        ) from error
