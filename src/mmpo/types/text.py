"""The text room: prompts, responses, and what was said about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Message: TypeAlias = Mapping[str, Any]
ROLES = ("rationale", "rollout", "variant", "variant_of_worse")
"""What a response beside the answers can be; see ``About``."""

Text: TypeAlias = "str | Sequence[Message]"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One statement about two responses of a prompt.

    ``p`` is the probability (or share of votes) that ``first`` is better than ``second``, a tie counting one half;
    ``count`` says how many votes ``p`` stands for. ``gap`` is a stated difference in quality, on the scale of the
    source, positive where ``first`` is better; a statement has ``p``, ``gap`` or both.
    """

    first: int
    second: int
    p: float | None = None
    count: float = 1.0
    gap: float | None = None
    weight: float = 1.0
    annotator: str | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What one response has of its own.

    Attributes:
        prompt: the prompt it answers, where that is not the prompt of the datum.
        role: empty for an answer. A response with a role is read like the others, but nobody compares it: "rationale"
            (why the better answer is better), "rollout" (a sample of the policy), "variant" (an answer with key
            phrases removed; its grade is the degree of removal).
        marks: spans of characters of the response, (start, end), that carry the difference to the other answers.
    """

    prompt: Text | None = None
    role: str = ""
    marks: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Contrast:
    """A statement about a combination of rewards: sum_i c_i s_i > 0 with probability ``p``.

    A comparison of i with j is the contrast +1 at i and -1 at j; a comparison of two differences has four entries.
    """

    coefficients: tuple[float, ...]
    p: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Datum:
    """A prompt, its K distinct responses, and everything that people or judges said about them.

    Attributes:
        id: unique in its source.
        prompt: plain text or chat messages.
        responses: K texts.
        grades: one number a response, higher is better, comparable within the datum; ``None`` for an ungraded one.
        pairs: the graded pairs that are compared; ``None`` means all of them.
        judgements: pairwise statements.
        annotator_grades: what each annotator gave, ``{annotator: (grade of response 0, ...)}``.
        weight: multiplies every comparison of the datum.
        split: the split that the source assigns, where it has one.
        source: file and row, for messages.
        ranked: the grades are ranks turned into numbers, so only their order was stated.
        about: what each response has of its own; empty where none has anything.
        contrasts: statements about combinations of rewards, one coefficient a response.
        subset: the part of its benchmark or data set, by which an evaluation also counts; ``None`` for none.
        attributes: what it was graded on beside, each with one number a response, ``{attribute: (...)}``.
    """

    id: str
    prompt: Text
    responses: tuple[Text, ...]
    grades: tuple[float | None, ...] | None = None
    pairs: tuple[tuple[int, int], ...] | None = None
    judgements: tuple[Judgement, ...] = ()
    annotator_grades: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    weight: float = 1.0
    split: str | None = None
    source: str = ""
    ranked: bool = False
    about: tuple[About, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    subset: str | None = None
    attributes: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
