"""The prompts that models are asked: bare prompts, or those of preference data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmpo.data import Source, load, texts
from mmpo.data.parse import ALL_SCHEMAS
from mmpo.data.read import read
from mmpo.data.rows import BadRow, Row
from mmpo.errors import OnBadRow, UserError
from mmpo.types import Text


@dataclass(frozen=True)
class Asked:
    """A prompt; ``topic`` is the subset it belongs to, "" for none."""

    id: str
    prompt: Text
    topic: str = ""


def spoken(text: Text) -> str:
    """A text in words, turn by turn where it has several."""
    if isinstance(text, str) or len(text) == 1:
        return texts.words(text)
    return "\n".join(f"{turn['role']}: {texts.content(turn)}" for turn in text)


def read_prompts(
    path: str, *, split: str | None = None, limit: int | None = None, on_bad_row: OnBadRow = "error"
) -> tuple[list[Asked], list[str]]:
    """Different prompts, and what the reader must know of how they were read.

    Args:
        path: a .txt file of one prompt a line, rows with a ``prompt`` (and, if they like, ``id``, ``subset`` and
            ``split``), or anything ``mmpo.data.load`` takes, of which only the prompts are used.
        limit: only the first so many prompts.

    Raises:
        UserError: where there is no prompt, or a bad row under "error".
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; give at least 1, or leave it out")
    if path.endswith(".txt"):
        if split is not None:
            raise UserError(f"{path}: a file of lines has no splits; leave split out")
        found, notes = _lines(Path(path)), list[str]()
    elif _bare(path):
        found, notes = _rows(path, split, on_bad_row)
    else:
        loaded = load(Source(path, split=split, feedback="optional"), on_bad_row=on_bad_row)
        found, notes = [Asked(d.id, d.prompt, d.subset or "") for d in loaded.data], loaded.ledger.summary()
    if not found:
        raise UserError(f"{path}: holds no prompts; give at least one")
    found, broken = _encodable(found, on_bad_row)
    first: dict[tuple[str, str], Asked] = {}
    for one in found:
        first.setdefault((texts.key(one.prompt), one.topic), one)
    different = list(first.values())
    kept = different[:limit]
    notes += [f"prompts dropped, because they hold half of a surrogate pair: {broken}"] * bool(broken)
    repeated, left = len(found) - len(different), len(different) - len(kept)
    notes += [f"prompts that stand there more than once: {repeated} repeats were asked only once"] * bool(repeated)
    notes += [f"limit {limit}: {left} further prompts were not asked"] * bool(left)
    return kept, notes


def _lines(path: Path) -> list[Asked]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read ({error}); give UTF-8 text") from error
    return [Asked(f"{path}:{n}", line) for n, line in enumerate(lines, 1) if line.strip()]


def _bare(path: str) -> bool:
    """Whether the first row has a prompt and no known shape of responses."""
    first: Any = next(iter(read(Source(path))), (0, {}))[1]
    known = isinstance(first, dict) and any(schema.columns <= first.keys() for schema in ALL_SCHEMAS)
    return isinstance(first, dict) and "prompt" in first and not known


def _rows(path: str, split: str | None, on_bad_row: OnBadRow) -> tuple[list[Asked], list[str]]:
    found, dropped, elsewhere = [], [], 0
    for where, raw in _numbered(path, split):
        try:
            if isinstance(raw, BadRow):
                raise raw
            row = Row(raw)
            if split is not None and row.has("split") and row.value("split") != split:
                elsewhere += 1
                continue
            topic = row.value("subset") if row.has("subset") else None
            name = str(row.value("id")) if row.has("id") else where
            found.append(Asked(name, row.prompt(), "" if topic is None else str(topic)))
        except BadRow as bad:
            if on_bad_row == "error":
                raise UserError(f"{where}: {bad} or drop the row (on_bad_row: drop)") from bad
            dropped.append(where)
    notes = [f"rows of another split: {elsewhere}"] * bool(elsewhere)
    notes += [f"rows dropped: {len(dropped)} (first {dropped[0]})"] if dropped else []
    return _named_apart(found), notes


def _numbered(path: str, split: str | None) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
    own = Path(path).is_file()
    for n, raw in read(Source(path, split=None if own else split)):
        if own and split is not None and isinstance(raw, dict) and "split" not in raw:
            raise UserError(f"{path}:{n}: split is {split!r}, but the row has no column 'split'; leave it out")
        yield f"{path}:{n}", raw


def _encodable(found: list[Asked], on_bad_row: OnBadRow) -> tuple[list[Asked], int]:
    """The prompts that a tokenizer can read, and how many it cannot."""
    kept = [one for one in found if texts.is_encodable(one.prompt)]
    broken = [one for one in found if not texts.is_encodable(one.prompt)]
    if broken and on_bad_row == "error":
        raise UserError(
            f"{broken[0].id}: the prompt holds half of a surrogate pair, which no tokenizer reads; mend it or drop the "
            "row (on_bad_row: drop)"
        )
    return kept, len(broken)


def _named_apart(found: list[Asked]) -> list[Asked]:
    """Ids that are unique."""
    seen: dict[str, int] = {}
    out = []
    for one in found:
        times = seen[one.id] = seen.get(one.id, 0) + 1
        out.append(one if times == 1 else replace(one, id=f"{one.id}~{times}"))
    return out
