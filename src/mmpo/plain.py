"""Text of others on a terminal: what would steer it is shown, and a password in an address is not."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed (ESC begins what clears a screen or sets its title), line separators, the
signs that turn the direction of text round, and halves of surrogate pairs, which no terminal takes."""

_SECRET = re.compile(r"(?<=://)[^/\s]+@")
"""Up to the last @ of the host's part, since people write passwords with one in it."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def plain(text: str) -> str:
    """The text with every character that steers a terminal as its escape, and ``user:password@`` of URLs as ``***@``.

    >>> print(plain("\\x1b[2J a\\rb https://me:secret@host/v1"))
    \\x1b[2J a\\rb https://***@host/v1
    """
    return _SECRET.sub("***@", _STEERS.sub(lambda found: ascii(found[0])[1:-1], text))


def one_line(text: str) -> str:
    """``plain`` text on one line, so that no text of others can look like a line of ours."""
    return plain(text).replace("\n", "\\n")


def to_cell(value: Any) -> Any:
    """A value for a CSV file: text that a spreadsheet would take for a formula gets the sign that says it is none."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def from_cell(text: str) -> str:
    """The text that ``to_cell`` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


class _Plain:
    """A text stream that is told plain text alone, whoever prints."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        written: int = self._stream.write(plain(text))
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def plain_output() -> Iterator[None]:
    """What is printed meanwhile is plain. Progress bars are not, which steer the terminal on purpose (stderr)."""
    with redirect_stdout(_Plain(sys.stdout)):
        yield
