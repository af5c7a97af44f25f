"""Goals: the same answers once for each quality that the prompt may ask for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mmpo.data.answers import Place, in_front
from mmpo.data.pairs import answers, graded_pairs, ties
from mmpo.errors import UserError
from mmpo.types import Datum, Text


def goal_prompt(prompt: Text, goal: float, place: Place = "system") -> Text:
    """The prompt that asks for an answer of the grade ``goal``; use it in training and, with the top grade, after it.

    Plain text gets the request in front. Chat messages get it in the system message (in front of one that is there),
    or with ``place`` "user" in front of the first user turn, for models whose chat template knows no system message.
    """
    return in_front(prompt, f"Answer so that your answer is rated {goal:g}.", place)


def add_goals(
    data: Iterable[Datum], goals: Sequence[float] | None = None, place: Place = "system"
) -> tuple[list[Datum], dict[str, int]]:
    """One datum for each goal g, whose prompt asks for g and whose grades say how well that was met.

    A response of grade r gets the grade -(g - r)^2, arXiv 2410.08067; so every graded method works unchanged, and MMPO
    takes p = sigmoid(gamma ((g - r_j)^2 - (g - r_i)^2)). The unit of gamma becomes 1 / (unit of the grades)^2.

    Args:
        data: data with grades; of others nothing can be made.
        goals: the goals for all data; without them each datum has the grades of its own answers for goals.
        place: where chat messages hold the goal, see ``goal_prompt``.

    Returns:
        The data and the counts "data in", "data out", "comparisons that tie at their goal" (kept, p = 1/2),
        "data without grades skipped", "ranked data skipped" (only an order was stated, and a goal needs a scale), and
        "statements about pairs dropped" (votes, gaps and contrasts speak of the prompt without a goal).

    Raises:
        UserError: not a single datum has grades, or a goal is no finite number.
    """
    if goals is not None and not (goals and all(map(math.isfinite, goals))):
        raise UserError(f"goals are {list(goals)}; give at least one, and finite numbers")
    out, counts = [], Counter[str]()
    for d in data:
        counts["data in"] += 1
        if d.ranked or not graded_pairs(d):
            counts["ranked data skipped" if d.ranked else "data without grades skipped"] += 1
            continue
        counts["statements about pairs dropped"] += len(d.judgements) + len(d.contrasts)
        wanted = _own_goals(d) if goals is None else list(dict.fromkeys(goals))
        made = [_towards(d, goal, place) for goal in wanted]
        counts["data out"] += len(made)
        counts["comparisons that tie at their goal"] += sum(map(ties, made))
        out += made
    if not out:
        raise UserError("goals are made of grades, and no data have any; give scores")
    return out, dict(counts)


def _own_goals(d: Datum) -> list[float]:
    """The grades of the compared answers, as the prompt will write them."""
    among = {i for pair in graded_pairs(d) for i in pair}
    return sorted({float(f"{g:g}") for i, g in enumerate(d.grades or ()) if g is not None and i in among})


def _towards(d: Datum, goal: float, place: Place) -> Datum:
    # The grade of a response with a role, such as a degree, is no quality.
    among = set(answers(d))

    def met(line: Sequence[float | None]) -> tuple[float | None, ...]:
        return tuple(0 - (goal - g) ** 2 if i in among and g is not None else g for i, g in enumerate(line))

    own = tuple(a if a.prompt is None else replace(a, prompt=goal_prompt(a.prompt, goal, place)) for a in d.about)
    return replace(
        d,
        id=f"{d.id}/goal {goal:g}",
        prompt=goal_prompt(d.prompt, goal, place),
        grades=met(d.grades or ()),
        judgements=(),
        annotator_grades={who: met(line) for who, line in d.annotator_grades.items()},
        about=own,
        contrasts=(),
    )
