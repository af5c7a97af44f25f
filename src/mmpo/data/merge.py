"""Data of one prompt -> one Datum over the distinct responses. Comparisons stay what they were."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean

from mmpo.data import texts
from mmpo.data.pairs import Pair, answers, graded, graded_pairs, names, ordered, pairs_of
from mmpo.types import About, Contrast, Datum, Judgement, Text


def merge(data: Iterable[Datum]) -> tuple[list[Datum], dict[str, int]]:
    """Merge the data of one prompt, so that the prompt and each distinct response are computed once.

    Only what was compared stays compared: ``pairs`` holds the graded pairs of the single rows, judgements keep theirs.
    Equal texts inside a datum become one response, if they answer the same prompt, have the same marks and no role.
    Graded rows that give one response different grades stay apart, as do ranked rows, rows of different splits,
    subsets or (where graded) weights, repeats of one row from a source of weight above 1, and data with roles, marks,
    own prompts or contrasts, which belong to the answers they came with.

    Returns:
        The data, in the order of the first row of each prompt, and the counts of what happened: "data in", "data out",
        "identical responses folded", "comparisons of identical responses dropped" and the "votes between identical
        responses dropped" among them, likewise contrasts, "grades of identical responses averaged", "data without two
        different responses dropped", "comparisons stated again" (pairs that several rows compare), "statements of
        weight 0 dropped", "graded data kept apart", "votes kept apart from grades of several scales", and "data with
        roles, marks, own prompts or contrasts kept apart". Weight 0 aside, every comparison is in the result, or was
        one of identical responses, or was stated again.
    """
    counts: Counter[str] = Counter()
    out = [merged for _, group in merged_groups(data, counts) for merged in group]
    return out, dict(counts)


def merged_groups(data: Iterable[Datum], counts: Counter[str]) -> list[tuple[int, list[Datum]]]:
    """What ``merge`` makes of the data that belong together, and which of the data was the first of them."""
    groups: dict[tuple[object, ...], list[Datum]] = defaultdict(list)
    began: list[int] = []
    copies: Counter[str] = Counter()
    for n, datum in enumerate(data):
        counts["data in"] += 1
        if datum.source:
            copies[datum.source] += 1
        one = _join([_weighted(datum, counts)], counts)
        if len(answers(one)) < 2:
            counts["data without two different responses dropped"] += 1
            continue
        group = groups[texts.key(one.prompt), one.split, one.subset, one.weight, copies[datum.source]]
        if not group:
            began.append(n)
        group.append(one)
    out = [(n, _merge_prompt(group, counts)) for n, group in zip(began, groups.values(), strict=True)]
    counts["data out"] = sum(len(group) for _, group in out)
    return out


def _weighted(datum: Datum, counts: Counter[str]) -> Datum:
    """The weight of an ungraded datum moved into its statements, so that rows of different weight can be merged."""
    stated = [*(j.weight for j in datum.judgements), *(c.weight for c in datum.contrasts)]
    if datum.grades is not None or (datum.weight == 1 and all(stated)):
        return datum
    said = tuple(replace(j, weight=j.weight * datum.weight) for j in datum.judgements)
    combined = tuple(replace(c, weight=c.weight * datum.weight) for c in datum.contrasts)
    kept, left = tuple(j for j in said if j.weight), tuple(c for c in combined if c.weight)
    counts["statements of weight 0 dropped"] += len(said) - len(kept) + len(combined) - len(left)
    return replace(datum, judgements=kept, contrasts=left, weight=1.0)


# ---------------------------------------------------------------------------------------------- one prompt


def _merge_prompt(rows: Sequence[Datum], counts: Counter[str]) -> list[Datum]:
    """The fewest data that keep incomparable grades apart. The result does not depend on the order of the rows."""
    if len(rows) == 1:
        return list(rows)
    whole = [d for d in rows if d.about or d.contrasts]
    rows = [d for d in rows if not (d.about or d.contrasts)]
    counts["data with roles, marks, own prompts or contrasts kept apart"] += len(whole)
    judged = [d for d in rows if d.grades is None]
    scored = [d for d in rows if d.grades is not None]
    clusters = [c for c in _connected([d for d in scored if not d.ranked]) if _agree(c)]
    scaled = {id(d) for cluster in clusters for d in cluster}
    together, apart = [d for d in scored if id(d) in scaled], [d for d in scored if id(d) not in scaled]
    if len(scored) > 1:
        counts["graded data kept apart"] += len(apart)
    if together and not _comparable(judged, clusters):
        counts["votes kept apart from grades of several scales"] += len(judged)
        groups = [judged, together]
    else:
        groups = [[d for d in rows if d.grades is None or id(d) in scaled]]
    return [*(_join(group, counts) for group in groups if group), *apart, *whole]


def _connected(rows: Sequence[Datum]) -> list[list[Datum]]:
    """Rows in clusters that share responses, directly or through other rows."""
    clusters: list[tuple[set[str], list[Datum]]] = []
    for row in rows:
        said, members = {texts.key(r) for r in row.responses}, [row]
        rest = []
        for cluster in clusters:
            if said & cluster[0]:
                said, members = said | cluster[0], cluster[1] + members
            else:
                rest.append(cluster)
        clusters = [*rest, (said, members)]
    return [members for _, members in clusters]


def _agree(rows: Sequence[Datum]) -> bool:
    """Whether every response has the same grade in all rows."""
    known: dict[str, float] = {}
    pairs = ((texts.key(r), g) for d in rows for r, g in zip(d.responses, d.grades or (), strict=True) if g is not None)
    return all(known.setdefault(name, grade) == grade for name, grade in pairs)


def _comparable(judged: Sequence[Datum], clusters: Sequence[Sequence[Datum]]) -> bool:
    """Whether no statement compares two responses whose grades come from rows that have nothing in common."""
    cluster_of = {texts.key(r): n for n, cluster in enumerate(clusters) for d in cluster for r in d.responses}
    for d in judged:
        homes = [cluster_of.get(texts.key(r)) for r in d.responses]
        for j in d.judgements:
            first, second = homes[j.first], homes[j.second]
            if first is not None and second is not None and first != second:
                return False
    return True


# ---------------------------------------------------------------------------------------------- joining rows


def _join(rows: Sequence[Datum], counts: Counter[str]) -> Datum:
    """One datum over the distinct responses of the rows."""
    named = [names(d) for d in rows]
    if len(rows) == 1 and len(set(named[0])) == len(named[0]):
        return rows[0]
    place: dict[str, int] = {}
    responses: list[Text] = []
    about: list[About] = []
    for d, own in zip(rows, named, strict=True):
        for r, name, has in zip(d.responses, own, d.about or (About(),) * len(own), strict=True):
            if place.setdefault(name, len(place)) == len(responses):
                responses.append(r)
                about.append(has)
        counts["identical responses folded"] += len(own) - len(set(own))
    at = [[place[name] for name in own] for own in named]
    _count_comparisons(rows, at, counts)
    first = rows[0]
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""

    def lines(field: str) -> dict[str, tuple[float | None, ...]]:
        each: list[Mapping[str, tuple[float | None, ...]]] = [getattr(d, field) for d in rows]
        names = dict.fromkeys(name for one in each for name in one)
        none = (None,) * len(responses)
        return {n: _joined_grades([one.get(n) for one in each], at, len(responses), counts) or none for n in names}

    return replace(
        first,
        responses=tuple(responses),
        grades=_joined_grades([d.grades for d in rows], at, len(responses), counts),
        pairs=_joined_pairs(rows, at),
        judgements=_joined_judgements(rows, at, counts),
        annotator_grades=lines("annotator_grades"),
        attributes=lines("attributes"),
        about=tuple(about) if any(d.about for d in rows) else (),
        contrasts=_joined_contrasts(rows, at, len(responses), counts),
        source=first.source + more,
    )


def _count_comparisons(rows: Sequence[Datum], at: Sequence[Sequence[int]], counts: Counter[str]) -> None:
    moved = [ordered(places[i], places[j]) for d, places in zip(rows, at, strict=True) for i, j in pairs_of(d)]
    different = [(i, j) for i, j in moved if i != j]
    counts["comparisons of identical responses dropped"] += len(moved) - len(different)
    counts["comparisons stated again"] += len(different) - len(set(different))


def _joined_grades(
    lines: Sequence[Sequence[float | None] | None], at: Sequence[Sequence[int]], n: int, counts: Counter[str]
) -> tuple[float | None, ...] | None:
    given: dict[int, list[float]] = defaultdict(list)
    for line, places in zip(lines, at, strict=True):
        for grade, place in zip(line or (), places, strict=False):
            if grade is not None:
                given[place].append(grade)
    if not given:
        return None
    counts["grades of identical responses averaged"] += sum(len(set(grades)) > 1 for grades in given.values())
    return tuple(_mean(given[i]) if i in given else None for i in range(n))


def _mean(grades: Sequence[float]) -> float:
    """The mean, and exactly the grade itself where all are equal."""
    return grades[0] if len(set(grades)) == 1 else fmean(grades)


def _joined_pairs(rows: Sequence[Datum], at: Sequence[Sequence[int]]) -> tuple[Pair, ...] | None:
    """The graded pairs of the rows in their new places; None where these are all there can be."""
    pairs: set[Pair] = set()
    for d, places in zip(rows, at, strict=True):
        pairs |= {ordered(places[i], places[j]) for i, j in graded_pairs(d) if places[i] != places[j]}
    among = {places[i] for d, places in zip(rows, at, strict=True) for i in graded(d)}
    return None if pairs == set(combinations(sorted(among), 2)) else tuple(sorted(pairs))


def _joined_judgements(
    rows: Sequence[Datum], at: Sequence[Sequence[int]], counts: Counter[str]
) -> tuple[Judgement, ...]:
    out = []
    for d, places in zip(rows, at, strict=True):
        for j in d.judgements:
            first, second = places[j.first], places[j.second]
            if first == second:
                counts["votes between identical responses dropped"] += 1
            else:
                out.append(replace(j, first=first, second=second))
    return tuple(out)


def _joined_contrasts(
    rows: Sequence[Datum], at: Sequence[Sequence[int]], n: int, counts: Counter[str]
) -> tuple[Contrast, ...]:
    out = []
    for d, places in zip(rows, at, strict=True):
        for contrast in d.contrasts:
            coefficients = [0.0] * n
            for c, place in zip(contrast.coefficients, places, strict=True):
                coefficients[place] += c
            if any(coefficients):
                out.append(replace(contrast, coefficients=tuple(coefficients)))
            else:
                counts["contrasts between identical responses dropped"] += 1
    return tuple(out)
