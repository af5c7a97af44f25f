"""Rows for new people beside those of the people whom a model knows, found from what they said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from mmpo.batch import Vocabulary, evidence
from mmpo.batch.statements import named
from mmpo.data.shape import only_answers
from mmpo.errors import UserError
from mmpo.evaluate.scored import Scored
from mmpo.objectives import Logistic
from mmpo.types import Datum, Evidence, Part, Reading, Score, Target
from mmpo.types.method import nested

WIDTH = 2.0
"""Of the prior on a new row, in deviations of the known ones. In small worlds, of labels that were right and of labels
of which a quarter were wrong, a narrower prior held people back."""

Rows = TypeVar("Rows", Evidence, Reading)


class Labels(NamedTuple):
    """What new people said of the data of one reading, a row for each of them and datum, with P [N, K, K] made of it.

    ``reading.who`` [N] says whose each row is. Every comparison of a person counts once.
    """

    evidence: Evidence
    reading: Reading
    p: Tensor


def spoken_by(data: Sequence[Datum], person: str) -> list[Datum]:
    """The data, where all that was said without a name was said by this person."""

    def spoken(datum: Datum) -> Datum:
        judged = tuple(j if j.annotator else replace(j, annotator=person) for j in datum.judgements)
        given = datum.annotator_grades or ({person: datum.grades} if datum.grades else {})
        return replace(datum, judgements=judged, annotator_grades=given)

    return [spoken(datum) for datum in data]


def newcomers(known: Vocabulary, data: Sequence[Datum]) -> Vocabulary:
    """The vocabulary with the names in the data that it lacks. Raises UserError where there is none."""
    new = [name for name in named(data)[known.kind] if name not in known.numbers]
    if not new:
        raise UserError(
            f"the rows name no {known.kind.removesuffix('s')} whom the model does not know, and who is "
            "known stays as they are; name who gave each label, or say --person NAME if all are one new person's"
        )
    return Vocabulary(known.kind, {**known.numbers, **{name: n for n, name in enumerate(new, len(known))}})


def labels_of(scored: Scored, target: Target, vocabulary: Vocabulary, first: int) -> tuple[list[Labels], list[str]]:
    """What those with a number of at least ``first`` said, and in words what others said, which is left out."""
    found, nobody, others = [], 0, 0
    for places, reading in () if scored.views is None else scored.views.parts:
        each, who = evidence([only_answers(scored.data[place]) for place in places], vocabulary).by_voice()
        said = each.compared.sum((1, 2)) // 2
        nobody += int(said[who == 0].sum())
        others += int(said[(who > 0) & (who < first)].sum())
        at = ((who >= first) & (said > 0)).nonzero().squeeze(-1)
        each = _rows(replace(each, weight=each.compared.to(each.weight), memory={}), at)
        own = _rows(replace(reading, tables={}), at % len(places))
        found.append(Labels(each, replace(own, who=who[at], tables=reading.tables), target.said(each)))
    told = [f"comparisons of people without a name, or not placed, left out: {nobody}"] if nobody else []
    told += [f"comparisons of people whom the model knows, who stay as they are, left out: {others}"] if others else []
    return [labels for labels in found if len(labels.p)], told


def _rows(record: Rows, at: Tensor) -> Rows:
    """These rows of a record of tensors that all have a row for each datum."""
    return record._map(lambda t: t[at])


# ---------------------------------------------------------------------------------------------- rows of the new


def grown(part: Part, what: str, voices: int) -> list[str]:
    """The names of those "tables", or memories ("memory"), of a part that have a row for each voice."""

    def shapes(n: int) -> dict[str, tuple[int, ...]]:
        found = {name: value for one in nested(part) for name, value in getattr(one, what)(n).items()}
        return {name: tuple(getattr(value, "shape", value)) for name, value in found.items()}

    more = shapes(voices + 1)
    return [name for name, shape in shapes(voices).items() if shape != more[name]]


def with_rows(reading: Reading, rows: Mapping[str, Tensor]) -> Reading:
    """The reading whose tables have further rows."""
    longer = {name: torch.cat([reading.tables[name], more.to(reading.tables[name])]) for name, more in rows.items()}
    return replace(reading, tables={**reading.tables, **longer})


def fitted(score: Score, labels: Sequence[Labels], tables: Sequence[str], new: int) -> dict[str, Tensor]:
    """Rows of the tables of voices for ``new`` people, [new, ...] by name; all that the model learned is frozen.

    They minimise the NLL of the labels, -< P, log sigmoid(M) >, under a normal prior, so that a person of few labels
    stays among the others: its mean is the mean row of the people whom the model knows, its deviation twice theirs, or
    twice 1, that of rows before training, where theirs is less. L-BFGS to its end.
    """
    known = {name: labels[0].reading.tables[name][1:] for name in tables}
    mean = {name: rows.mean(0) for name, rows in known.items()}
    variance = {name: WIDTH**2 * rows.var(0, correction=0).clamp_min(1) for name, rows in known.items()}
    rows = {name: start.expand(new, *start.shape).clone().requires_grad_() for name, start in mean.items()}
    logistic = Logistic()
    optimizer = torch.optim.LBFGS(list(rows.values()), max_iter=500, line_search_fn="strong_wolfe")

    def price() -> Tensor:
        optimizer.zero_grad()
        total = torch.stack([((rows[name] - mean[name]).square() / variance[name]).sum() / 2 for name in tables]).sum()
        for said in labels:
            m = score(with_rows(said.reading, rows))
            total = total + (said.p * logistic.price(m, said.evidence)).sum()
        total.backward()
        return total

    optimizer.step(price)
    return {name: row.detach() for name, row in rows.items()}


@torch.no_grad()
def remembered(
    score: Score, labels: Sequence[Labels], names: Sequence[str], voices: int, new: int
) -> dict[str, Tensor]:
    """Rows of the memories of voices for ``new`` people, [new, ...] by name, learned from the labels in one step."""
    begun = {name: value for part in nested(score) for name, value in part.memory(voices + new).items()}
    rows = {name: begun[name][voices:] for name in names}
    found: dict[str, Tensor] = {}
    for part in nested(score):
        seen = [with_rows(said.reading, rows) for said in labels]
        told = [part.observe(said.evidence, r, score.seen(r)) for said, r in zip(labels, seen, strict=True)]
        found |= part.remember(begun, {name: torch.cat([one[name] for one in told]) for name in told[0]})
    return {name: found[name][voices:] for name in names}
