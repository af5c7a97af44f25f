"""Rows that hold components of a grade in columns of their own, or skills that a student model is asked about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mmpo.data.outcomes import TUTOR, Aggregate, By, aggregate, one_of, rubric_score
from mmpo.data.read import Numbered
from mmpo.data.rows import BadRow, Row, items
from mmpo.data.source import Source
from mmpo.data.texts import content, words
from mmpo.errors import UserError
from mmpo.types import Text

FROM_STUDENT = "outcome"
"""The component that a student model gives."""


class Question(NamedTuple):
    """What a student model is asked, to be answered by True or False, and where it comes from."""

    text: str
    source: str


Student = Callable[[Sequence[Question]], Sequence[float]]
"""The probability of True for each question."""

SPEAKERS = {"assistant": "Tutor", "user": "Student"}


def dialogue(prompt: Text, response: Text) -> str:
    """The lesson so far and the tutor's next turn, as one text. Messages of the assistant are the tutor's, those of the
    user the student's; a system message, such as the exercise, stands as it is. So does a plain prompt."""
    turns = [prompt] if isinstance(prompt, str) else [_turn(str(m["role"]), content(m)) for m in prompt]
    return "\n".join([*turns, _turn("assistant", words(response))])


def _turn(role: str, said: str) -> str:
    return f"{SPEAKERS[role]}: {said}" if role in SPEAKERS else said


def student_question(prompt: Text, response: Text, skill: str) -> str:
    """Whether the student, after this turn, gets right what takes this skill."""
    asked = f"Will the student's next answer be right in what concerns this skill: {skill}\nTrue or False?"
    return f"{dialogue(prompt, response)}\n\n{asked}"


@dataclass
class Components:
    """Rows that hold components in columns of their own, or a list of skills, as rows with ``attributes``.

    A column named like a component holds one entry a response: a number, null, or what a judge with a rubric said (see
    ``rubric_score``). With a ``student``, a row lists the ``skills`` (knowledge components) that the next answer takes;
    the student model tells of each response how probably each is shown, and ``aggregate`` of these is the component
    "outcome".

    Attributes:
        counts: "questions to the student".
    """

    components: Mapping[str, float] = field(default_factory=lambda: TUTOR)
    rubric: By = "overall"
    student: Student | None = None
    aggregate: Aggregate = "mean"
    counts: Counter[str] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        one_of("rubric", self.rubric, By)
        one_of("aggregate", self.aggregate, Aggregate)

    def source(self, source: Source) -> Source:
        """How the rows are read: with the components among the attributes."""
        if source.grade is not None:
            raise UserError(f"{source.path}: grade is set, and components say what the grade is made of; leave it out")
        return replace(source, grade=dict(self.components), attributes=tuple(self.components))

    def __call__(self, rows: Numbered) -> Numbered:
        if self.student is not None:
            rows = self._answered(rows, self.student)
        for n, raw in rows:
            try:
                yield n, raw if isinstance(raw, BadRow) else self._gathered(raw)
            except BadRow as bad:
                yield n, bad

    def _gathered(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The row with its components among the attributes; where there are several responses, each is a list."""
        own = [name for name in self.components if "responses" in raw and raw.get(name) is not None]
        stated = raw.get("attributes") if isinstance(raw.get("attributes"), Mapping) else None
        if twice := next((name for name in own if name in (stated or {})), None):
            raise BadRow("stated twice", f"{twice} stands in a column and in attributes; leave one out")
        lines = {name: [self._value(v, f"{name}[{i}]") for i, v in enumerate(items(raw[name], name))] for name in own}
        rest = {name: value for name, value in raw.items() if name not in own}
        return {**rest, "attributes": {**(stated or {}), **lines}} if own else rest

    def _value(self, value: Any, name: str) -> float | None:
        return None if value is None else rubric_score(value, self.rubric, name)

    def _answered(self, rows: Numbered, student: Student) -> Numbered:
        """The rows with what the student model says of them. All are asked together, in batches of like length."""
        if FROM_STUDENT not in self.components:
            raise UserError(f"the student gives {FROM_STUDENT!r}, which is no component; name it in components")
        listed, asked = list(rows), []
        places: list[tuple[int, int]] = []
        for at, (n, raw) in enumerate(listed):
            if isinstance(raw, BadRow):
                continue
            try:
                questions = self._questions(raw, str(raw.get("id", f"row {n}")))
            except BadRow as bad:
                listed[at] = n, bad
                continue
            asked += [q for each in questions for q in each]
            places += [(at, len(each)) for each in questions]
        self.counts["questions to the student"] += len(asked)
        said = iter(student(asked))
        found: dict[int, list[float]] = {}
        for at, count in places:
            found.setdefault(at, []).append(aggregate([next(said) for _ in range(count)], self.aggregate))
        for at, (n, raw) in enumerate(listed):
            yield n, raw if isinstance(raw, BadRow) else self._with_outcome(raw, found[at])

    def _with_outcome(self, raw: Mapping[str, Any], line: list[float]) -> dict[str, Any]:
        return {**{name: value for name, value in raw.items() if name != "skills"}, FROM_STUDENT: line}

    def _questions(self, raw: Mapping[str, Any], name: str) -> list[list[Question]]:
        """For each response, a question for each skill."""
        if raw.get(FROM_STUDENT) is not None:
            raise BadRow("stated twice", f"{FROM_STUDENT} is given, and the student gives it too; leave one out")
        row = Row(raw)
        prompt, skills = row.prompt(), row.items("skills")
        if not skills or not all(isinstance(skill, str) and skill.strip() for skill in skills):
            raise BadRow("no skills", "skills is no list of texts; name at least one, or drop the row")
        said = row.items("responses")
        return [[Question(student_question(prompt, r, skill), name) for skill in skills] for r in said]
