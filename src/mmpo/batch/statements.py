"""Datum -> Evidence: what was said about the responses, as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmpo.types import Datum, Evidence


def evidence(data: Sequence[Datum]) -> Evidence:
    """Evidence of B data, padded to the largest K."""
    return stack([_one(datum) for datum in data])


def stack(items: Sequence[Evidence]) -> Evidence:
    """Evidence of several batches as one, padded to the largest K; padding is masked, ungraded, never compared."""
    k = max(item.mask.shape[1] for item in items)

    def join(name: str, square: bool, fill: float) -> Tensor:
        def grown(t: Tensor) -> Tensor:
            room = k - t.shape[1]
            return pad(t, (0, room, 0, room) if square else (0, room), value=fill)

        return torch.cat([grown(getattr(item, name)) for item in items])

    return Evidence(
        mask=join("mask", False, False),
        quality=join("quality", False, torch.nan),
        stated=join("stated", True, torch.nan),
        votes=join("votes", True, 0.0),
        weight=join("weight", True, 0.0),
    )


def _one(datum: Datum) -> Evidence:
    k = len(datum.responses)
    quality = torch.full((k,), torch.nan)
    weight, votes = torch.zeros(k, k), torch.zeros(k, k)
    stated, stated_count = torch.zeros(k, k), torch.zeros(k, k)
    if datum.grades is not None:
        graded = [i for i, grade in enumerate(datum.grades) if grade is not None]
        quality[graded] = torch.tensor([float(datum.grades[i]) for i in graded])  # type: ignore[arg-type]
        for i, j in combinations(graded, 2) if datum.pairs is None else datum.pairs:
            if datum.grades[i] is not None and datum.grades[j] is not None:
                weight[i, j] = weight[j, i] = datum.weight
    judged_weight, judged_count = torch.zeros(k, k), torch.zeros(k, k)
    for said in datum.judgements:
        i, j = said.first, said.second
        if said.p is not None:
            votes[i, j] += said.p * said.count * said.weight
            votes[j, i] += (1 - said.p) * said.count * said.weight
        if said.gap is not None:
            stated[i, j] += said.gap
            stated[j, i] -= said.gap
            stated_count[i, j] += 1
            stated_count[j, i] += 1
        for a, b in ((i, j), (j, i)):
            judged_weight[a, b] += said.weight * datum.weight
            judged_count[a, b] += 1
    weight = torch.where(judged_count > 0, judged_weight / judged_count.clamp_min(1), weight)
    stated = torch.where(stated_count > 0, stated / stated_count.clamp_min(1), torch.nan)
    return Evidence(
        mask=torch.ones(1, k, dtype=torch.bool),
        quality=quality[None],
        stated=stated[None],
        votes=votes[None],
        weight=weight[None],
    )
