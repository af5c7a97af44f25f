"""The answers of a datum: which is better, and how to put responses beside them that nobody compares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmpo.data import texts
from mmpo.data.compared import Compared
from mmpo.data.pairs import Pair, pairs_of
from mmpo.types import About, Datum, Message, Text


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
