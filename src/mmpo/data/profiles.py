"""Profiles: what a person wants, in words, from a few choices of theirs; the context of their other choices."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from mmpo.data.answers import Place, ranking
from mmpo.data.contexts import TEMPLATE, contextual_prompt
from mmpo.data.texts import words
from mmpo.errors import UserError
from mmpo.types import Datum, Text

Infer = Callable[[Sequence[str]], Sequence[str]]
"""Answers questions in words; an empty answer means that there is none."""


class Choice(NamedTuple):
    """What one person preferred to what."""

    prompt: Text
    better: Text
    worse: Text


def profile_question(choices: Sequence[Choice]) -> str:
    """Asks what the person wants who made these choices."""
    shown = "".join(
        f"Prompt {n}:\n{words(one.prompt).strip()}\nPreferred:\n{words(one.better).strip()}\n"
        f"To this:\n{words(one.worse).strip()}\n\n"
        for n, one in enumerate(choices, 1)
    )
    return f"{shown}One person made these choices. In one sentence, what does this person want of an answer?"


def with_profiles(
    data: Iterable[Datum],
    infer: Infer,
    samples: int = 3,
    seed: int = 0,
    template: str = TEMPLATE,
    place: Place = "system",
) -> tuple[list[Datum], dict[str, int]]:
    """Data of many people as data of one person each, whose prompts say what that person wants.

    Of each person, ``samples`` prompts are drawn whose choices the teacher ``infer`` sees (arXiv 2407.14916); what the
    person said of the others goes on with the profile as its context. The choices that were shown are left out, since
    the profile was made of them. People who chose on fewer than ``samples`` + 1 prompts are left out too.

    Args:
        data: data whose judgements or grades name annotators.
        infer: all questions, one a person -> their answers.

    Returns:
        The data, with ids "datum/person", and the counts "people", "people with too few choices", "people without a
        profile", "data in", "data out" and "choices shown to the teacher".

    Raises:
        UserError: no person has enough choices, or the teacher does not answer each question once.
    """
    if samples < 1:
        raise UserError(f"samples is {samples}; give at least 1 choice for each person")
    own: dict[str, list[Datum]] = defaultdict(list)
    counts = Counter[str]()
    for d in data:
        counts["data in"] += 1
        for who in _people(d):
            if ranking(said := _of(d, who)):
                own[who].append(said)
    enough = {who: said for who, said in own.items() if len(said) > samples}
    if not enough:
        raise UserError(f"nobody chose on {samples + 1} prompts or more; name annotators, or give fewer samples")
    counts.update({"people": len(own), "people with too few choices": len(own) - len(enough)})
    draw = random.Random(seed)
    shown = {who: frozenset(draw.sample(range(len(said)), samples)) for who, said in enough.items()}
    questions = [profile_question([_choice(enough[who][n]) for n in sorted(at)]) for who, at in shown.items()]
    answers = list(infer(questions))
    if len(answers) != len(questions):
        raise UserError(f"the teacher gave {len(answers)} answers to {len(questions)} questions; give one for each")
    out = []
    for who, profile in zip(shown, answers, strict=True):
        if not profile.strip():
            counts["people without a profile"] += 1
            continue
        counts["choices shown to the teacher"] += samples
        rest = [d for n, d in enumerate(enough[who]) if n not in shown[who]]
        out += [_wanting(d, profile.strip(), template, place) for d in rest]
    counts["data out"] = len(out)
    return out, dict(counts)


def _people(d: Datum) -> list[str]:
    return sorted({*d.annotator_grades, *(j.annotator for j in d.judgements if j.annotator is not None)})


def _of(d: Datum, who: str) -> Datum:
    """What one person said of a datum."""
    line = d.annotator_grades.get(who)
    said = tuple(j for j in d.judgements if j.annotator == who)
    grades, pairs = ({}, None) if line is None else ({who: line}, d.pairs)
    bare = replace(d, id=f"{d.id}/{who}", contrasts=(), attributes={}, ranked=d.ranked and line is not None)
    return replace(bare, judgements=said, grades=line, annotator_grades=grades, pairs=pairs)


def _wanting(d: Datum, profile: str, template: str, place: Place) -> Datum:
    """The datum with the profile in its prompt, and in those that responses have of their own."""
    own = tuple(
        a if a.prompt is None else replace(a, prompt=contextual_prompt(a.prompt, profile, template, place))
        for a in d.about
    )
    return replace(d, prompt=contextual_prompt(d.prompt, profile, template, place), about=own)


def _choice(d: Datum) -> Choice:
    """The best and the worst answer of one person."""
    order = ranking(d)
    return Choice(d.prompt, d.responses[order[0]], d.responses[order[-1]])
