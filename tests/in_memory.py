"""The walk from sources to training data as it is when everything fits into memory: the oracle of the walk on disk."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from mmpo.data import cap_pairs, cap_responses, merge, rescale, shuffle_responses, spread, texts
from mmpo.data.ledger import Ledger
from mmpo.data.parse import Account, parse
from mmpo.data.read import read
from mmpo.data.source import Source
from mmpo.errors import OnBadRow
from mmpo.needs import without_idle
from mmpo.recipe import Shape
from mmpo.types import Datum, Method

Counts = dict[str, dict[str, int]]


def gathered(
    sources: Sequence[Source],
    shape: Shape,
    seed: int,
    on_bad_row: OnBadRow = "error",
    like: list[Datum] | None = None,
    method: Method | None = None,
) -> tuple[list[Datum], list[Datum], Ledger, Counts]:
    """The shaped data, the merged data, the account of the rows, and what merging and shaping did."""
    loaded = [load_one(source, on_bad_row, seed + n) for n, source in enumerate(sources)]
    data = [datum for data, _ in loaded for datum in data]
    done: Counts = {}
    if method is not None:
        data, idle = without_idle(data, method)
        done |= {"not read by the method": idle} if idle else {}
    merged, done["merging"] = merge(data)
    out = list(merged)
    if shape.rescale is not None:
        out, done["rescale"] = rescale(out, shape.rescale, like), {shape.rescale: len(out)}
    if shape.spread is not None:
        out, done["spread"] = spread(out, shape.spread, seed)
    if shape.max_responses is not None:
        out, done["max_responses"] = cap_responses(out, shape.max_responses, seed)
    if shape.max_pairs is not None:
        out, done["max_pairs"] = cap_pairs(out, shape.max_pairs, seed)
    return shuffle_responses(out, seed), merged, Ledger.total(ledger for _, ledger in loaded), done


def load_one(source: Source, on_bad_row: OnBadRow, seed: int) -> tuple[list[Datum], Ledger]:
    told = Account(Ledger(source.path))
    parsed = list(parse(read(source), source, told, on_bad_row, source.limit))
    ledger = told.close(source)
    groups = _mix(_gather(parsed, ledger, 1 if source.feedback == "optional" else 2), source, ledger, seed)
    data = _unique_ids([_datum_of(group) for group in groups], ledger)
    ledger.data = len(data)
    return data, ledger


def _gather(parsed: Iterable[Datum], ledger: Ledger, least: int) -> list[list[Datum]]:
    groups: dict[str, list[Datum]] = {}
    for d in parsed:
        alone = len(d.responses) == 1 and not d.about and not d.contrasts
        name = f"{d.split}:{d.subset}:{d.weight}:{texts.key(d.prompt)}" if alone else d.source
        groups.setdefault(name, []).append(d)
    whole = []
    for group in groups.values():
        if sum(len(d.responses) for d in group) >= least:
            whole.append(group)
        else:
            ledger.rows_used -= 1
            ledger.drop("the only response to its prompt", group[0].source)
    return whole


def _datum_of(group: Sequence[Datum]) -> Datum:
    first = group[0]
    if len(group) == 1:
        return first
    prompt, responses = texts.uniform(first.prompt, [r for d in group for r in d.responses])
    return replace(first, prompt=prompt, responses=responses, grades=tuple(g for d in group for g in d.grades or ()))


def _mix(groups: list[list[Datum]], source: Source, ledger: Ledger, seed: int) -> list[list[Datum]]:
    if source.weight == 1:
        return groups
    whole, part = int(source.weight), source.weight % 1
    drawn = set(random.Random(seed).sample(range(len(groups)), round(part * len(groups))))
    times = [whole + (n in drawn) for n in range(len(groups))]
    ledger.repeated = sum(max(t - 1, 0) for t in times)
    for group in (group for group, t in zip(groups, times, strict=True) if t == 0):
        for d in group:
            ledger.rows_used -= 1
            ledger.drop(f"not drawn (weight {source.weight:g})", d.source)
    return [group for group, t in zip(groups, times, strict=True) for _ in range(t)]


def _unique_ids(data: list[Datum], ledger: Ledger) -> list[Datum]:
    rows: dict[str, str] = {}
    copies: Counter[str] = Counter()
    again, out = 0, []
    for d in data:
        name = d.id
        if rows.setdefault(name, d.source) != d.source:
            name = f"{d.id}#{d.source}"
            again += copies[d.source] == 0
        copies[d.source] += 1
        out.append(replace(d, id=name if copies[d.source] == 1 else f"{name}~{copies[d.source]}"))
    if again:
        ledger.notes.append(f"rows with the id of an earlier row: {again}; their file and row were added to it")
    return out


def random_rows(seed: int, n: int) -> list[dict[str, Any]]:
    """Rows of many shapes that have much to do with each other: few prompts, ids and responses, some bad rows."""
    rng = random.Random(seed)
    return [_random_row(rng, n) for _ in range(n)]


def _random_row(rng: random.Random, n: int) -> dict[str, Any]:
    prompt = rng.choice(["p\ud800", "q é", "r\u2028"]) + str(rng.randrange(n // 3))
    chat = rng.random() < 0.2
    texts_of = [f"answer {rng.randrange(6)}" for _ in range(rng.randrange(2, 6))]
    responses = [[{"role": "assistant", "content": t}] if chat else t for t in texts_of]
    k = len(responses)
    row: dict[str, Any] = {"prompt": [{"role": "user", "content": prompt}] if chat else prompt}
    kind = rng.randrange(8)
    if kind < 2:
        row |= {"response": responses[0], "score": rng.randrange(5)}
    elif kind == 2:
        row |= {"chosen": responses[0], "rejected": responses[1]}
    elif kind == 3:
        row |= {"responses": responses, "scores": [rng.randrange(5) for _ in range(k)]}
    elif kind == 4:
        row |= {"responses": responses, "annotators": ["ann", "bob"]}
        row |= {"annotator_scores": [[rng.random() for _ in range(k)] for _ in range(2)]}
    elif kind == 5:
        row |= {"responses": responses, "pairwise": [[0, 1, rng.randrange(-1, 2)]], "weight": rng.choice([0, 0.5, 1])}
    elif kind == 6:
        row |= {"responses": responses, "ranks": list(range(1, k + 1)), "rationale": "because"}
    else:
        row |= {"responses": responses, "judgements": [{"first": 0, "second": 1, "p": 0.25, "gap": rng.random()}]}
    if rng.random() < 0.2:
        row["id"] = f"id {rng.randrange(n // 4)}"
    if rng.random() < 0.2:
        row["split"] = rng.choice(["train", "test"])
    if rng.random() < 0.1:
        row["subset"] = "some"
    if rng.random() < 0.05:
        row = rng.choice([{"prompt": "x"}, row | {"responses": []}, {"what": 1}])
    return row
