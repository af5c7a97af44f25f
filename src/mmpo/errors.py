"""Errors that speak to the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal, TypeAlias

OnBadRow: TypeAlias = Literal["error", "drop"]
"""What a bad row does: stop with a message that names it, or be left out and counted."""


class UserError(Exception):
    """The user's input is wrong: one line that names the file, row or key, and the mend. The CLI exits with 2."""


def nearest(word: str, known: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """A hint for a mistyped word: "Did you mean 'x'?", or what is known (``listed``, where that is long)."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6) or [name for name in known if f"_{word}" in name]
    if close:
        return f"Did you mean {close[0]!r}?"
    shown = known if listed is None else list(listed)
    return f"Known: {', '.join(sorted(shown))}{'' if listed is None else ' and others'}."


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
