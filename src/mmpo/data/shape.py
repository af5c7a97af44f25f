"""Shaping: data -> data. Whatever a function leaves out, it counts."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import accumulate, combinations

from mmpo.data import texts
from mmpo.data.pairs import Pair, answers, graded, graded_pairs, names, ordered, pairs_of
from mmpo.errors import UserError
from mmpo.types import Datum


def take(datum: Datum, order: Sequence[int], pairs: Collection[Pair] | None = None) -> Datum:
    """The datum with the responses ``order`` in that order, and what was said about them.

    ``pairs`` (i < j, in the old numbering) keeps these comparisons only; None keeps all that are left. A contrast stays
    where all the responses that it combines do.
    """
    new = {old: n for n, old in enumerate(order)}
    kept = [p for p in _graded_among(datum, pairs) if p[0] in new and p[1] in new]
    among = sorted(new[i] for i in graded(datum) if i in new)
    moved = sorted(ordered(new[i], new[j]) for i, j in kept)
    return replace(
        datum,
        responses=tuple(datum.responses[i] for i in order),
        grades=None if datum.grades is None else tuple(datum.grades[i] for i in order),
        pairs=None if moved == list(combinations(among, 2)) else tuple(moved),
        judgements=tuple(
            replace(j, first=new[j.first], second=new[j.second])
            for j in datum.judgements
            if j.first in new and j.second in new and (pairs is None or ordered(j.first, j.second) in pairs)
        ),
        annotator_grades={a: tuple(line[i] for i in order) for a, line in datum.annotator_grades.items()},
        attributes={a: tuple(line[i] for i in order) for a, line in datum.attributes.items()},
        about=tuple(datum.about[i] for i in order) if datum.about else (),
        contrasts=tuple(
            replace(c, coefficients=tuple(c.coefficients[i] for i in order))
            for c in datum.contrasts
            if all(i in new for i, value in enumerate(c.coefficients) if value)
        ),
    )


def only_answers(datum: Datum) -> Datum:
    """The datum without what stands beside its answers."""
    kept = answers(datum)
    return datum if len(kept) == len(datum.responses) else take(datum, kept)


def _whole(datum: Datum) -> bool:
    """Whether a datum is one thing: what stands beside its answers, and its contrasts, belong to all of them."""
    return bool(datum.contrasts) or any(own.role for own in datum.about)


def _graded_among(datum: Datum, pairs: Collection[Pair] | None) -> Collection[Pair]:
    if pairs is None:
        return graded_pairs(datum)
    if datum.pairs is None:  # the common case, without listing all K (K - 1) / 2 pairs
        return graded_pairs(replace(datum, pairs=tuple(pairs)))
    return set(pairs) & set(graded_pairs(datum))


def shuffle_responses(data: Iterable[Datum], seed: int) -> list[Datum]:
    """The responses of each datum in a random order, drawn from the seed and the datum's id, so that the position of a
    response carries no label."""
    out = []
    for d in data:
        order = list(range(len(d.responses)))
        _drawing(seed, d.id).shuffle(order)
        out.append(take(d, order))
    return out


def _drawing(seed: int, name: str) -> random.Random:
    """Random numbers of their own for each name, whatever the other data. Of a name that UTF-8 can carry they are those
    of the text itself."""
    return random.Random(f"{seed}:{name}".encode("utf-8", "surrogatepass"))


# ---------------------------------------------------------------------------------------------- fewer responses


def cap_responses(data: Iterable[Datum], k: int, seed: int) -> tuple[list[Datum], dict[str, int]]:
    """At most ``k`` responses a datum: larger ones are split at random into groups of nearly equal size.

    Each response is in one group, so comparisons between groups are lost: see ``spread`` to keep them. Data with
    contrasts or with responses that have a role stay whole. Returns the data and the counts "data split", "comparisons
    lost" and "data kept whole".
    """
    _at_least_two(k)
    out, counts = [], Counter({"data split": 0, "comparisons lost": 0, "data kept whole": 0})
    for d in data:
        n = len(d.responses)
        if n <= k or _whole(d):
            out.append(d)
            counts["data kept whole"] += len(answers(d)) > k
            continue
        order = _drawing(seed, d.id).sample(range(n), n)
        groups = math.ceil(n / k)
        parts = [take(d, sorted(order[g::groups])) for g in range(groups)]
        parts = [replace(p, id=f"{d.id}/{g}") for g, p in enumerate(parts) if pairs_of(p)]
        counts["data split"] += 1
        counts["comparisons lost"] += len(pairs_of(d)) - sum(len(pairs_of(p)) for p in parts)
        out += parts
    return out, dict(counts)


def spread(data: Iterable[Datum], k: int, seed: int) -> tuple[list[Datum], dict[str, int]]:
    """At most ``k`` responses a datum without losing a comparison: every comparison is in exactly one group.

    Groups may share responses. Each group grows from a random comparison by the response that brings the most
    comparisons not yet placed. The last groups hold few comparisons; a method that averages within a datum gives each
    of them more weight. Data with contrasts or with responses that have a role stay whole. Returns the data and the
    counts "data split", "responses repeated" and "data kept whole".
    """
    _at_least_two(k)
    out, counts = [], Counter({"data split": 0, "responses repeated": 0, "data kept whole": 0})
    for d in data:
        if len(d.responses) <= k or _whole(d):
            out.append(d)
            counts["data kept whole"] += len(answers(d)) > k
            continue
        groups = _cover(pairs_of(d), k, _drawing(seed, d.id))
        out += [replace(take(d, sorted(g), pairs), id=f"{d.id}/{n}") for n, (g, pairs) in enumerate(groups)]
        counts["data split"] += 1
        counts["responses repeated"] += sum(len(g) for g, _ in groups) - len({i for g, _ in groups for i in g})
    return out, dict(counts)


def _cover(pairs: Sequence[Pair], k: int, rng: random.Random) -> list[tuple[set[int], set[Pair]]]:
    """Groups of at most k responses, each with its pairs, such that every pair is in one group."""
    left: dict[int, set[int]] = defaultdict(set)
    for i, j in pairs:
        left[i].add(j)
        left[j].add(i)
    groups = []
    for start in rng.sample(pairs, len(pairs)):
        if start[1] not in left[start[0]]:
            continue
        group = set(start)
        gain = Counter([*(left[start[0]] - group), *(left[start[1]] - group)])
        while gain and len(group) < k:
            new = min(gain, key=lambda other: (-gain[other], other))
            group.add(new)
            gain.update(left[new])
            for i in group:
                gain.pop(i, None)
        inside = {(i, j) for i in group for j in left[i] & group if i < j}
        for i, j in inside:
            left[i].discard(j)
            left[j].discard(i)
        groups.append((group, inside))
    return groups


def cap_pairs(data: Iterable[Datum], n: int, seed: int) -> tuple[list[Datum], dict[str, int]]:
    """At most ``n`` comparisons a prompt, drawn at random over all data of the prompt.

    Responses that are compared with none any more are left out. Data with contrasts or with responses that have a role
    stay whole, and beside them the others have the rest. Returns the data and the counts "prompts capped", "comparisons
    lost", "responses lost" and "data kept whole" (of the prompts capped).
    """
    if n < 1:
        raise UserError(f"at most {n} comparisons a prompt leave nothing; give at least 1")
    by_prompt: dict[str, list[Datum]] = defaultdict(list)
    for d in data:
        by_prompt[texts.key(d.prompt)].append(d)
    out, counts = [], Counter({"prompts capped": 0, "comparisons lost": 0, "responses lost": 0, "data kept whole": 0})
    for prompt, everything in by_prompt.items():
        whole, group = [d for d in everything if _whole(d)], [d for d in everything if not _whole(d)]
        every = [(g, pair) for g, d in enumerate(group) for pair in pairs_of(d)]
        most = max(0, n - sum(len(pairs_of(d)) for d in whole))
        out += whole
        if len(every) <= most:
            out += group
            continue
        drawn = set(_drawing(seed, prompt).sample(every, most))
        counts["prompts capped"] += 1
        counts["data kept whole"] += len(whole)
        counts["comparisons lost"] += len(every) - most
        for g, d in enumerate(group):
            pairs = {pair for h, pair in drawn if h == g}
            order = sorted({i for pair in pairs for i in pair})
            counts["responses lost"] += len(d.responses) - len(order)
            out += [take(d, order, pairs)] if pairs else []
    return out, dict(counts)


def _at_least_two(k: int) -> None:
    if k < 2:
        raise UserError(f"at most {k} responses a prompt leave nothing to compare; give at least 2")


# ---------------------------------------------------------------------------------------------- whole data sets


def dedupe(data: Iterable[Datum]) -> tuple[list[Datum], int]:
    """The data without exact repeats (id and source aside), and how many repeats were left out."""
    data, seen = list(data), dict[str, Datum]()
    for d in data:
        said = (texts.key(d.prompt), names(d), d.grades, d.pairs, d.judgements, d.contrasts)
        lines = sorted(d.annotator_grades.items()), sorted(d.attributes.items())
        seen.setdefault(repr((*said, *lines, d.weight, d.split, d.subset, d.ranked)), d)
    return list(seen.values()), len(data) - len(seen)


def split(data: Iterable[Datum], fractions: Mapping[str, float], seed: int) -> dict[str, list[Datum]]:
    """Named parts of about the given fractions, by a hash of the prompt: equal prompts (up to case and white space)
    are in the same part, whatever the order or the rest of the data. Own prompts of responses do not count."""
    if not fractions or min(fractions.values()) < 0 or not math.isclose(sum(fractions.values()), 1, abs_tol=1e-6):
        raise UserError(f"split: the fractions are {dict(fractions)}; give fractions that add up to 1")
    names, edges = list(fractions), list(accumulate(fractions.values()))[:-1]
    parts: dict[str, list[Datum]] = {name: [] for name in names}
    for d in data:
        name = f"{seed}:{texts.normal(d.prompt)}".encode("utf-8", "surrogatepass")
        digest = blake2b(name, digest_size=8).digest()
        parts[names[bisect_right(edges, int.from_bytes(digest) / 2**64)]].append(d)
    return parts
