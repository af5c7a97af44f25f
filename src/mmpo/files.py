"""Files that are written whole or not at all, in UTF-8.

Text from the wild may hold half of a surrogate pair, which UTF-8 cannot carry. In JSON it becomes the escape that JSON
has for it, so that nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    _write(path, [text])


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """A record as JSON with sorted keys. Raises ValueError for NaN or inf, which JSON does not have."""
    _write(path, [json.dumps(record, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False), "\n"])


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line. Raises ValueError for NaN or inf."""
    _write(path, (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def _write(path: Path, parts: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")
    # A draft is made anew, so that a link that lies there leads nowhere.
    draft.unlink(missing_ok=True)
    with draft.open("x", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(parts)
    draft.replace(path)
