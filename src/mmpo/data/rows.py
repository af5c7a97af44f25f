"""A raw row that checks what is read from it and remembers which columns were read."""

from __future__ import annotations

import codecs
import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmpo.data.texts import is_blank
from mmpo.types import Text


class BadRow(Exception):
    """A row that cannot be used: ``reason`` is what the ledger counts, the message says what to mend in this row."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


DEEPEST = 60
"""Levels that the messages of a prompt or a response may be nested."""


def too_deep() -> BadRow:
    return BadRow("nested too deeply", "lists or mappings are nested too deeply; write the row flat")


def from_line(line: bytes) -> dict[str, Any] | BadRow:
    """A line of a .jsonl as a row."""
    try:
        row = from_json(line)
    except UnicodeDecodeError as error:
        return BadRow("not UTF-8", f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8")
    except json.JSONDecodeError as error:
        return BadRow("broken JSON", f"the line is not JSON ({error.msg} at column {error.colno}); mend it")
    except RecursionError:
        return too_deep()
    except BadRow as bad:
        return bad
    return checked(row)


def from_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises BadRow for a key that stands twice, and what ``json.loads`` raises."""
    if isinstance(text, bytes):
        text = text.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    return _JSON.decode(text)


def checked(row: Any) -> dict[str, Any] | BadRow:
    """A row as JSON has it, which should be an object."""
    if isinstance(row, dict):
        return row
    return BadRow("wrong type", "the row is not an object; give {column: value}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow("a key twice", f"{_brief(twice)} stands twice in one object; leave one out")
    return row


def _whole(digits: str) -> int | float:
    """A whole number; one that no float can hold is infinite, as JSON readers have it for 1e400."""
    return int(digits) if len(digits) < 300 else float(digits)


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole)


class Row:
    """One raw row. Every reader below raises BadRow where the column is missing or does not hold what it should."""

    def __init__(self, raw: Mapping[str, Any]):
        self._raw = raw
        self.used: set[str] = set()
        self.notes: list[str] = []

    @property
    def columns(self) -> set[str]:
        return set(self._raw)

    @property
    def stated(self) -> set[str]:
        """The columns that hold something."""
        return {name for name, value in self._raw.items() if value is not None}

    def has(self, *names: str) -> bool:
        return all(name in self._raw for name in names)

    def first(self, *names: str) -> str | None:
        """The first of these columns that the row has."""
        return next((name for name in names if name in self._raw), None)

    def states(self, *names: str) -> bool:
        """Whether any of these columns holds something. A table has null for what only its other rows state."""
        self.used.update(name for name in names if name in self._raw)
        return any(self._raw.get(name) is not None for name in names)

    def value(self, name: str) -> Any:
        if name not in self._raw:
            raise BadRow("column missing", f"{name} is missing; give it")
        self.used.add(name)
        return self._raw[name]

    def note(self, text: str) -> None:
        """Something that the ledger should count and tell."""
        self.notes.append(text)

    # ------------------------------------------------------------------------------------------ numbers

    def number(self, name: str) -> float:
        return number(self.value(name), name)

    def share(self, name: str) -> float:
        """A probability."""
        return share(self.value(name), name)

    def numbers(self, name: str, n: int) -> tuple[float, ...]:
        return numbers(self.value(name), name, n)

    def some_numbers(self, name: str, n: int) -> tuple[float | None, ...]:
        return some_numbers(self.value(name), name, n)

    def weight(self, name: str) -> float:
        return weight(self.value(name), name)

    def weights(self, name: str, n: int) -> tuple[float, ...]:
        return tuple(weight(w, name) for w in self.numbers(name, n))

    # ------------------------------------------------------------------------------------------ texts and lists

    def annotator(self) -> str | None:
        """The one annotator of the row, in the first of the columns that may name one; None where it names nobody."""
        name = self.first("annotator", "annotator_id", "worker", "worker_id")
        value = None if name is None else self.value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise BadRow("wrong type", f"{name} is {_brief(value)}; give one name, or null")
        return str(value)

    def items(self, name: str) -> list[Any]:
        """A list; in a table of text cells, a list written as JSON."""
        return items(self.value(name), name)

    def prompt(self, name: str = "prompt") -> Text:
        if name not in self._raw:
            raise BadRow("no prompt", f"{name} is missing; give the prompt")
        value = text(self.value(name), name)
        if is_blank(value):
            raise BadRow("no prompt", f"{name} is empty; give the prompt")
        return value

    def response(self, name: str) -> Text:
        return response(self.value(name), name)


def number(value: Any, name: str) -> float:
    if value is None:
        raise BadRow("null number", f"{name} is null; give a finite number")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow("not a number", f"{name} is {_brief(value)}; give a finite number")
    try:
        value = float(value)
    except OverflowError:  # a whole number beyond all floats
        value = math.inf
    if not math.isfinite(value):
        raise BadRow("not a finite number", f"{name} is {'NaN' if math.isnan(value) else 'inf'}; give a finite number")
    return value


def share(value: Any, name: str) -> float:
    p = number(value, name)
    if not 0 <= p <= 1:
        raise BadRow("not a probability", f"{name} is {p:g}; give a probability between 0 and 1")
    return p


def weight(value: Any, name: str) -> float:
    out = number(value, name)
    if out < 0:
        raise BadRow("negative weight", f"{name} is {out:g}; give a weight of at least 0")
    return out


def numbers(value: Any, name: str, n: int) -> tuple[float, ...]:
    values = items(value, name)
    if len(values) != n:
        raise BadRow("lengths differ", f"{name} has {len(values)} entries for {n}; give one each")
    return tuple(number(v, f"{name}[{i}]") for i, v in enumerate(values))


def some_numbers(line: Any, name: str, n: int) -> tuple[float | None, ...]:
    """Numbers, null where a response has none."""
    values = items(line, name)
    if len(values) != n:
        raise BadRow("lengths differ", f"{name} has {len(values)} entries for {n} responses; give one each")
    return tuple(None if v is None else number(v, f"{name}[{i}]") for i, v in enumerate(values))


def items(value: Any, name: str) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        with contextlib.suppress(json.JSONDecodeError):
            value = from_json(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRow("wrong type", f"{name} is {_brief(value)}; give a list")
    return list(value)


def response(value: Any, name: str) -> Text:
    out = text(value, name)
    if is_blank(out):
        raise BadRow("empty response", f"{name} is empty; give the response")
    return out


def text(value: Any, name: str) -> Text:
    """Plain text, or messages that each have a role."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        messages = [m for m in value if isinstance(m, Mapping) and isinstance(m.get("role"), str)]
        if len(messages) == len(value):
            if any(_deeper(value, DEEPEST) for value in messages):
                raise too_deep()
            return messages
    raise BadRow("wrong type", f"{name} is {_brief(value)}; give text, or messages with role and content")


def _deeper(value: Any, levels: int) -> bool:
    """Whether a value is nested more levels deep."""
    if isinstance(value, str) or not isinstance(value, Mapping | Sequence):
        return False
    inner = value.values() if isinstance(value, Mapping) else value
    return levels == 0 or any(_deeper(one, levels - 1) for one in inner)


def _brief(value: Any) -> str:
    shown = json.dumps(value, default=str, ensure_ascii=False)
    return shown if len(shown) <= 40 else shown[:37] + "..."
