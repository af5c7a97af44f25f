"""Which responses of a datum somebody compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

from mmpo.data import texts
from mmpo.types import Datum

Pair = tuple[int, int]


def ordered(i: int, j: int) -> Pair:
    return (i, j) if i < j else (j, i)


def answers(datum: Datum) -> list[int]:
    """The responses that may be compared: those without a role."""
    return [i for i in range(len(datum.responses)) if not (datum.about and datum.about[i].role)]


def graded(datum: Datum) -> list[int]:
    """The answers that have a grade."""
    return [] if datum.grades is None else [i for i in answers(datum) if datum.grades[i] is not None]


def names(datum: Datum) -> list[str]:
    """A string for each response, equal where two are the same response: to the same prompt, with the same marks."""
    if not datum.about:
        return [texts.key(r) for r in datum.responses]
    return [
        repr((texts.key(r), own.prompt and texts.key(own.prompt), own.marks, (own.role, i) if own.role else None))
        for i, (r, own) in enumerate(zip(datum.responses, datum.about, strict=True))
    ]


def graded_pairs(datum: Datum) -> list[Pair]:
    """The pairs i < j that are compared through their grades."""
    among = graded(datum)
    if datum.pairs is None:
        return list(combinations(among, 2))
    known = set(among)
    return sorted({ordered(i, j) for i, j in datum.pairs if i in known and j in known})


def ties(datum: Datum) -> int:
    """How many comparisons are of equal grades."""
    grades = datum.grades or ()
    return sum(grades[i] == grades[j] for i, j in graded_pairs(datum))


def judged_pairs(datum: Datum) -> list[Pair]:
    """The pairs i < j that a statement compares."""
    pairs = {ordered(j.first, j.second) for j in datum.judgements}
    if datum.about:
        among = set(answers(datum))
        pairs = {(i, j) for i, j in pairs if i in among and j in among}
    return sorted(pairs)


def pairs_of(datum: Datum) -> list[Pair]:
    """All compared pairs i < j: graded or judged."""
    return sorted({*graded_pairs(datum), *judged_pairs(datum)})


def provides(data: Iterable[Datum]) -> dict[str, int]:
    """How many comparisons there are, and how many of them come with each kind of feedback.

    "grades": through the grades of both responses; "ranks": those of them whose grades are ranks; "gaps": with a stated
    gap or offset (the ledger says which); "votes": with votes or a probability; "annotators": with a named annotator.
    """
    counts = Counter(dict.fromkeys(("comparisons", "grades", "ranks", "gaps", "votes", "annotators"), 0))
    for d in data:
        by_grade = graded_pairs(d)
        counts["comparisons"] += len(pairs_of(d))
        counts["grades"] += len(by_grade)
        counts["ranks"] += len(by_grade) * d.ranked
        for kind, said in (
            ("gaps", [j for j in d.judgements if j.gap is not None]),
            ("votes", [j for j in d.judgements if j.p is not None]),
        ):
            counts[kind] += len({ordered(j.first, j.second) for j in said})
        named = {ordered(j.first, j.second) for j in d.judgements if j.annotator is not None}
        named |= {p for p in by_grade for line in d.annotator_grades.values() if _both(line, p)}
        counts["annotators"] += len(named)
    return dict(counts)


def beside(data: Iterable[Datum]) -> dict[str, int]:
    """What there is beside answers and comparisons: responses with a role by their role, answers with marks or own
    prompts, contrasts, and different annotators by name."""
    kinds = ("rationales", "rollouts", "variants", "marked answers", "answers with own prompts", "contrasts")
    counts = Counter(dict.fromkeys(kinds, 0))
    people: set[str] = set()
    for d in data:
        people |= {*d.annotator_grades, *(j.annotator for j in d.judgements if j.annotator is not None)}
        counts["contrasts"] += len(d.contrasts)
        for own in d.about:
            if own.role:
                counts[f"{own.role.removesuffix('_of_worse')}s"] += 1
            else:
                counts["marked answers"] += bool(own.marks)
                counts["answers with own prompts"] += own.prompt is not None
    return {**counts, "named annotators": len(people)}


def _both(line: Sequence[float | None], pair: Pair) -> bool:
    return line[pair[0]] is not None and line[pair[1]] is not None
