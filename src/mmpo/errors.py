"""Errors that speak to the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal, TypeAlias

OnBadRow: TypeAlias = Literal["error", "drop"]
"""What a bad row does: stop with a message that names it, or be left out and counted."""


class UserError(Exception):
    """The user's input is wrong: one line that names the file, row or key, and the mend. The CLI exits with 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word: "Did you mean 'x'?", or the list of what is known."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(sorted(known))}."
