"""What each of many voices said, annotators, attributes or the parts of a data set, beside what the model says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from mmpo.batch import Vocabulary, evidence
from mmpo.data.shape import only_answers
from mmpo.data.texts import key
from mmpo.evaluate.agreement import Floats
from mmpo.evaluate.comparisons import Comparisons, people
from mmpo.evaluate.scored import Scored, Views, rows_of
from mmpo.matrix import between
from mmpo.types import Datum, Reading

NAMELESS = ""
"""The voice of whoever said something without a name."""

_CELLS = 4_000_000
"""Entries of [voices of all data, K, K] at a time."""


@dataclass(frozen=True)
class Heard:
    """What each voice of a kind said, beside what the model says.

    Attributes:
        kind: "annotators", "attributes" or "subsets".
        said: a comparison for each voice that made it, whose name stands in ``subset``, ``NAMELESS`` without one. Each
            counts with the whole weight that its comparison has in the data.
        own: the voices that are judged by the model's own view of them; the others are by anybody's.
        anybody: [N] the margins in anybody's view.
    """

    kind: str
    said: Comparisons
    own: frozenset[str]
    anybody: Floats


def heard(scored: Scored, kind: str) -> Heard | None:
    """What each voice said of data that were scored; None where the data name no voice of this kind, or none compared
    anything, as attributes of which each graded one response alone."""
    data = [only_answers(datum) for datum in scored.data]
    names = Vocabulary.of(kind, data)
    if scored.views is None or len(names) == 1:
        return None
    prompts: dict[str, int] = {}
    group = np.array([prompts.setdefault(key(datum.prompt), len(prompts)) for datum in data])
    label = np.array([NAMELESS, *names.numbers], dtype=object)
    lens = _Lens.of(scored.views, names)
    parts, anybody = [], []
    for places, reading in _pieces(scored.views, data):
        some = [data[place] for place in places]
        whole = evidence(some, names)
        each, who = whole.by_voice()
        a, k = len(who) // len(some), whole.mask.shape[1]
        p, gap = people(replace(each, weight=torch.where(each.weight != 0, whole.weight.repeat(a, 1, 1), 0.0)))
        seen = rows_of(reading, torch.arange(len(some)).repeat(a))
        anybody.append(Comparisons.from_matrices(p, scored.views.m(seen)[:, :k, :k]).m)
        parts.append(
            Comparisons.from_matrices(
                p,
                lens.margins(seen, who)[:, :k, :k],
                gap=gap,
                lengths=seen.require("lengths")[:, :k],
                ids=[datum.id for datum in some] * a,
                group=np.tile(group[places], a),
                subset=label[who.numpy()].tolist(),
            )
        )
    joined = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Comparisons)}
    said = Comparisons(**joined)
    return Heard(kind, said, lens.known, np.concatenate(anybody)) if len(said) else None


def _pieces(views: Views, data: Sequence[Datum]) -> Iterator[tuple[list[int], Reading]]:
    """Places of data with the reading of these, as many at a time as their voices leave room for."""
    for places, reading in views.parts:
        k = reading.mask.shape[1]
        most, start = 0, 0
        for n, place in enumerate(places):
            most = max(most, _voices_at_most(data[place]))
            if n > start and (n + 1 - start) * most * k * k > _CELLS:
                yield list(places[start:n]), rows_of(reading, torch.arange(start, n))
                most, start = _voices_at_most(data[place]), n
        yield list(places[start:]), rows_of(reading, torch.arange(start, len(places)))


def _voices_at_most(datum: Datum) -> int:
    named = {judgement.annotator for judgement in datum.judgements}
    return 1 + max(len(named | {*datum.annotator_grades}), len(datum.attributes))


@dataclass(frozen=True)
class _Lens:
    """By whose view each voice of the data is judged.

    Attributes:
        views: what the model said.
        number: [V] the model's number of each voice of the data, 0 for one that it does not know; None where it tells
            no such voices apart.
        facet: [V] the facet with the name of each voice of the data, -1 where there is none.
        known: the voices that have a view of their own.
    """

    views: Views
    number: Tensor | None
    facet: Tensor
    known: frozenset[str]

    @classmethod
    def of(cls, views: Views, names: Vocabulary) -> _Lens:
        own, nothing = views.known, torch.full((len(names),), -1)
        if own is not None and own.kind == names.kind:
            number = torch.tensor([0, *(own.numbers.get(name, 0) for name in names.numbers)])
            return cls(views, number, nothing, frozenset(names.numbers.keys() & own.numbers.keys()))
        at = {name: n for n, name in enumerate(views.facet_names)} if names.kind == "attributes" else {}
        facet = torch.tensor([-1, *(at.get(name, -1) for name in names.numbers)])
        return cls(views, None, facet, frozenset(names.numbers.keys() & at.keys()))

    def margins(self, reading: Reading, who: Tensor) -> Tensor:
        """The margins [N, K, K] for rows of which each is what voice ``who`` [N] of the data said."""
        if self.number is not None:
            return self.views.m(replace(reading, who=self.number[who])).detach()
        m, facets = self.views.m(reading).detach(), self.views.score.facets(reading)
        column = self.facet[who]
        if facets is None or not (column >= 0).any():
            return m
        index = column.clamp_min(0)[:, None, None].expand(*facets.shape[:2], 1)
        own = between(facets.detach().gather(-1, index).squeeze(-1))
        return torch.where((column >= 0)[:, None, None], own, m)
