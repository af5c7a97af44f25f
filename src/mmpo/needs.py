"""Does a run have what its method needs? Asked before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmpo.data.shape import take
from mmpo.errors import UserError, nearest
from mmpo.types import ROLES, VOICES, About, Datum, Method

if TYPE_CHECKING:
    from mmpo.batch.counts import Stated

LACKING = {
    "marks": ("marked spans in responses", "give marks, or write them with: mmpo build phrases"),
    "prompts": ("responses with prompts of their own", "give prompts, or take dpo, which it would equal"),
    "contrasts": ("contrasts", "give contrasts, or write them with: mmpo build instructions"),
    "rationale": ("rationales", "give rationale, or take dpo"),
    "rollout": ("rollouts", "give rollouts, samples of the policy for each prompt"),
    "variant": ("variants of responses", "give variants, or write them with: mmpo build variants"),
    "annotators": ("names of annotators", "give annotator"),
    "attributes": ("graded attributes", "set attributes: all on their source"),
    "subsets": ("names of subsets", "give subset, or several sources"),
    "voice_grades": ("grades by voices", "set attributes: all on their source, or give annotator_scores"),
}
"""What data may lack, in words, and the mend."""

REFERENCES = ("copy", "adapter", "cached")
TEACHERS = ("teacher", "teacher_reference")

OPTIONAL = {"annotators"}
"""Needs without which a method still means something: all people are then one."""


def voices_of(method: Method, asked: str | None) -> str | None:
    """Whose voices a method is to tell apart, one of ``VOICES``; None where it tells nobody apart.

    Raises UserError where it is asked to and cannot, or where its parts want several kinds.
    """
    wanted = [kind for kind in VOICES if kind in method.needs]
    if asked is not None and not wanted:
        raise UserError(f"voices is {asked}, and the method tells no voices apart; leave it out")
    if len(wanted) > 1 and asked is None:
        raise UserError(f"parts of the method tell different voices apart ({', '.join(wanted)}); say which with voices")
    return asked or next(iter(wanted), None)


@dataclass(frozen=True)
class Wanted:
    """What a method reads of a datum beside its answers: responses with these roles, contrasts, marks, attributes."""

    roles: frozenset[str]
    contrasts: bool
    marks: bool
    attributes: bool = True

    @classmethod
    def by(cls, method: Method, voices: str | None = None) -> Wanted:
        """``voices`` says whose voices the method is to tell apart, where it is not for the method to say."""
        roles = frozenset(role for role in ROLES if role.removesuffix("_of_worse") in method.needs)
        attributes = voices_of(method, voices) == "attributes"
        return cls(roles, "contrasts" in method.needs, "marks" in method.needs, attributes)

    def key(self) -> list[Any]:
        """The same as plain JSON values."""
        return [sorted(self.roles), self.contrasts, self.marks, self.attributes]

    def __call__(self, datum: Datum, gone: Counter[str]) -> Datum:
        """The datum without the rest, which is counted. Twice is as once."""
        idle = {i for i, own in enumerate(datum.about) if own.role and own.role not in self.roles}
        gone.update(f"responses with the role {datum.about[i].role}" for i in idle)
        new = take(datum, [i for i in range(len(datum.responses)) if i not in idle]) if idle else datum
        lost = len(datum.contrasts) - (len(new.contrasts) if self.contrasts else 0)
        if lost:
            gone["contrasts"] += lost
            new = replace(new, contrasts=new.contrasts if self.contrasts else ())
        if not self.marks and (marked := sum(bool(own.marks) for own in new.about)):
            gone["marked responses"] += marked
            new = replace(new, about=tuple(replace(own, marks=()) for own in new.about))
        if new.attributes and not self.attributes:
            gone["graded attributes"] += len(new.attributes)
            new = replace(new, attributes={})
        return new if not new.about or any(own != About() for own in new.about) else replace(new, about=())


def without_idle(data: Iterable[Datum], method: Method) -> tuple[list[Datum], dict[str, int]]:
    """The data without what the method would read for nothing, and how much of it went: asides, marks, contrasts."""
    wanted, gone = Wanted.by(method), Counter[str]()
    return [wanted(datum, gone) for datum in data], dict(gone)


def check_needs(method: Method, stated: Stated, offset: bool = False, voices: str | None = None) -> dict[str, int]:
    """Refuse a method whose evidence the examples lack; returns the comparisons, and what else was said, counted.

    ``voices`` says whose voices the examples tell apart.
    """
    said = stated.counts
    counts = {name: said[name] for name in ("comparisons", "with votes", "bare labels")}
    if not counts["comparisons"]:
        raise UserError(
            "nobody compared any two responses of a prompt; give scores, votes, ranks or preferred responses"
        )
    if {"grades", "offset"} & method.needs and counts["bare labels"] == counts["comparisons"]:
        raise UserError(
            f"the method needs graded feedback ({method.target.equation}), but all {counts['comparisons']} "
            "comparisons are bare labels, so every target would be the same; use dpo, cdpo or bradley_terry, or give "
            "scores or votes"
        )
    if "votes" in method.needs and not counts["with votes"]:
        raise UserError(
            "the method needs votes or probabilities, and the data have none; give votes, p_first or p_chosen"
        )
    if offset and "offset" not in method.needs:
        raise UserError(
            "the column margin was declared an additive offset, which this method does not use; take "
            "margin_bradley_terry or odpo, or declare margin: gap"
        )
    variants = sum(said[role] for role in ROLES if role.startswith("variant"))
    beside = {need: said[need] for need in LACKING} | {"variant": variants}
    needed = method.needs & LACKING.keys() - {*VOICES}
    if voices is not None:
        beside[voices] = len(stated.voices)
        needed = needed | {voices}
    for need in sorted(needed - OPTIONAL):
        if not beside[need]:
            what, mend = LACKING[need]
            raise UserError(f"the method needs {what}, and the data have none; {mend}")
    return counts | {LACKING[need][0]: n for need, n in beside.items() if n}


def check_reference(reference: str | None, method: Method, adapter: bool) -> None:
    """Raise UserError where a method has no use for a reference, or a model no adapter to switch off."""
    if reference is None:
        return
    if "ref" not in method.needs:
        raise UserError(f"the method uses no reference; leave reference out ({method.score.equation})")
    if reference == "cached" and method.looks_closely:
        raise UserError("the method looks at single tokens, of which a cached reference keeps the sums; take copy")
    if reference not in REFERENCES:
        raise UserError(f"unknown reference {reference!r}. {nearest(reference, REFERENCES)}")
    if reference == "adapter" and not adapter:
        raise UserError("reference is 'adapter' but there is no lora; use reference: copy, or add lora: {r: 16}")


def check_teachers(method: Method, given: Mapping[str, Any]) -> None:
    """Raise UserError where a teacher is missing, unknown, or given for nothing."""
    for role in given.keys() - set(TEACHERS):
        raise UserError(f"unknown teacher {role!r}. {nearest(role, TEACHERS)}")
    for role in TEACHERS:
        if role in method.needs and given.get(role) is None:
            raise UserError(f"the method needs a {role}; name its folder or hub id as {role}")
        if role == TEACHERS[1] and given.get(role) is not None and given[role] == given.get(TEACHERS[0]):
            raise UserError("teacher and teacher_reference are one model, so there is nothing to learn; give two")
        if role not in method.needs and given.get(role) is not None:
            raise UserError(f"the method has no use for a {role}; leave it out")
