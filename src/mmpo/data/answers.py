"""The answers of a datum: which is better, and how to put responses beside them that nobody compares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mmpo.data import texts
from mmpo.data.compared import Compared
from mmpo.data.pairs import Pair, pairs_of
from mmpo.errors import UserError
from mmpo.types import About, Datum, Message, Text

Place = Literal["system", "user"]
"""Where chat messages hold what stands in front of the question."""


@dataclass(frozen=True)
class Beside:
    """A response to put beside the answers, what it has of its own, and its grade."""

    response: Text
    about: About
    grade: float | None = None


def gaps(datum: Datum) -> dict[Pair, float]:
    """How much better i is than j, for each compared pair i < j, as a graded method reads it; 0 for a tie."""
    return dict(zip(pairs_of(datum), Compared.of([datum]).margin.tolist(), strict=True))


def ranking(datum: Datum) -> list[int]:
    """The compared answers from the best to the worst, by wins less losses; equal ones in the order of the datum.

    Empty where nobody says that one answer is better than another.
    """
    wins: Counter[int] = Counter()
    for (i, j), gap in gaps(datum).items():
        wins[i] += (gap > 0) - (gap < 0)
        wins[j] -= (gap > 0) - (gap < 0)
    return sorted(wins, key=lambda i: (-wins[i], i)) if any(wins.values()) else []


def with_more(datum: Datum, more: Sequence[Beside]) -> Datum:
    """The datum with further responses behind its own. What was compared stays what it was."""
    k, n = len(datum.responses), len(more)
    grades = (*(datum.grades or (None,) * k), *(one.grade for one in more))
    return replace(
        datum,
        responses=(*datum.responses, *(one.response for one in more)),
        grades=None if all(grade is None for grade in grades) else grades,
        annotator_grades={who: (*line, *(None,) * n) for who, line in datum.annotator_grades.items()},
        attributes={name: (*line, *(None,) * n) for name, line in datum.attributes.items()},
        about=(*(datum.about or (About(),) * k), *(one.about for one in more)),
        contrasts=tuple(replace(c, coefficients=(*c.coefficients, *(0.0,) * n)) for c in datum.contrasts),
    )


def around(message: Message, before: str = "", after: str = "") -> Message:
    """The message with text in front of its words and behind them."""
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [{"type": "text", "text": words} for words in (before, after)]
        return {**message, "content": [part for part in (parts[0], *content, parts[1]) if part.get("text") != ""]}
    return {**message, "content": f"{before}{texts.content(message)}{after}"}


def in_front(prompt: Text, request: str, place: Place = "system") -> Text:
    """The prompt with a request in front of it: in a block of its own of plain text; in the system message of chat
    messages (in front of one that is there), or with ``place`` "user" in front of the first user turn. Raises UserError
    for another place."""
    if place not in ("system", "user"):
        raise UserError(f"place is {place!r}; give 'system' or 'user'")
    if isinstance(prompt, str):
        return f"{request}\n\n{prompt}"
    turns = list(prompt)
    if place == "system" and not (turns and turns[0]["role"] == "system"):
        return [{"role": "system", "content": request}, *turns]
    at = next((n for n, turn in enumerate(turns) if turn["role"] == place), None)
    if at is None:
        return [{"role": place, "content": request}, *turns]
    return [*turns[:at], around(turns[at], before=f"{request}\n\n"), *turns[at + 1 :]]
