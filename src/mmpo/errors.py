"""Errors that speak to the user."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mmpo.plain import one_line


class UserError(Exception):
    """The user's input is wrong: one line that names the file, row or key, and the mend. The CLI exits with 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class GoneBad(Exception):
    """A number of a run became NaN or infinite; nothing was saved after it. The CLI exits with 1."""


@dataclass(frozen=True)
class AtMost:
    """Bad rows are left out and counted, up to a ceiling.

    A few broken rows are in every collection. Many are a wrong column or a wrong encoding, and what is left would be
    another data set than the one that was meant.

    Attributes:
        most: a whole number of rows, or a share of them below 1, which is rounded up to whole rows.
    """

    most: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.most < math.inf or (self.most >= 1 and self.most != int(self.most)):
            raise UserError(f"max_bad_rows is {self.most}; give a whole number of rows, or a share of them below 1")

    def allowed(self, rows: int) -> int:
        """How many of so many rows may be bad."""
        # Rounded, since 0.1 of 30 is a little more than 3.
        return int(self.most) if self.most >= 1 else math.ceil(round(self.most * rows, 6))

    def check(self, bad: int, rows: int, told: str, unit: str = "rows") -> None:
        """Raise UserError where more are bad; ``told`` says which and why."""
        if bad > self.allowed(rows):
            raise UserError(
                f"{bad} of {rows} {unit} are bad, and max_bad_rows {self.most:g} allows {self.allowed(rows)}: {told}; "
                "mend them, or raise max_bad_rows"
            )


OnBadRow: TypeAlias = Literal["error", "drop"] | AtMost
"""What a bad row does: stop with a message that names it, or be left out and counted, at most so many if it is said."""


def bad_row_rule(on_bad_row: Literal["error", "drop"], max_bad_rows: float | None) -> OnBadRow:
    """The rule of the two options. Raises UserError for a ceiling where no bad row is let through."""
    if on_bad_row == "drop":
        return AtMost() if max_bad_rows is None else AtMost(max_bad_rows)
    if max_bad_rows is not None:
        raise UserError("max_bad_rows would do nothing where on_bad_row is 'error'; add on_bad_row: drop")
    return on_bad_row


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
