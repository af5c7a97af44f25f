"""Which responses of a datum somebody compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

from mmpo.types import Datum

Pair = tuple[int, int]


def ordered(i: int, j: int) -> Pair:
    return (i, j) if i < j else (j, i)


def graded_pairs(datum: Datum) -> list[Pair]:
    """The pairs i < j that are compared through their grades."""
    if datum.grades is None:
        return []
    graded = [i for i, grade in enumerate(datum.grades) if grade is not None]
    if datum.pairs is None:
        return list(combinations(graded, 2))
    return sorted(
        {ordered(i, j) for i, j in datum.pairs if datum.grades[i] is not None and datum.grades[j] is not None}
    )


def judged_pairs(datum: Datum) -> list[Pair]:
    """The pairs i < j that a statement compares."""
    return sorted({ordered(j.first, j.second) for j in datum.judgements})


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
        graded = graded_pairs(d)
        counts["comparisons"] += len(pairs_of(d))
        counts["grades"] += len(graded)
        counts["ranks"] += len(graded) * d.ranked
        for kind, said in (
            ("gaps", [j for j in d.judgements if j.gap is not None]),
            ("votes", [j for j in d.judgements if j.p is not None]),
        ):
            counts[kind] += len({ordered(j.first, j.second) for j in said})
        named = {ordered(j.first, j.second) for j in d.judgements if j.annotator is not None}
        named |= {p for p in graded for line in d.annotator_grades.values() if _both(line, p)}
        counts["annotators"] += len(named)
    return dict(counts)


def _both(line: Sequence[float | None], pair: Pair) -> bool:
    return line[pair[0]] is not None and line[pair[1]] is not None
