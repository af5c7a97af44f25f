"""Datum -> Evidence: what was said about the responses, as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mmpo.types import Datum, Evidence


def evidence(data: Sequence[Datum]) -> Evidence:
    """Evidence of B data, padded to the largest K."""
    return stack([_one(datum) for datum in data])


def stack(items: Sequence[Evidence]) -> Evidence:
    """Evidence of several batches as one, padded to the largest K; padding is masked, ungraded, never compared."""
    if len(items) == 1:
        return items[0]
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
    # numpy, since a torch call on a few numbers takes longer than the numbers.
    k = len(datum.responses)
    quality = np.full(k, np.nan, np.float32)
    weight, votes, stated, judged = (np.zeros((k, k), np.float32) for _ in range(4))
    stated_count, judged_count = (np.zeros((k, k), np.float32) for _ in range(2))
    if datum.grades is not None:
        graded = [i for i, grade in enumerate(datum.grades) if grade is not None]
        quality[graded] = [datum.grades[i] for i in graded]
        for i, j in combinations(graded, 2) if datum.pairs is None else datum.pairs:
            if datum.grades[i] is not None and datum.grades[j] is not None:
                weight[i, j] = weight[j, i] = datum.weight
    for said in datum.judgements:
        i, j = said.first, said.second
        if said.p is not None:
            votes[i, j] += said.p * said.count * said.weight
            votes[j, i] += (1 - said.p) * said.count * said.weight
        if said.gap is not None:
            stated[i, j] += said.gap
            stated[j, i] -= said.gap
        for a, b in ((i, j), (j, i)):
            stated_count[a, b] += said.gap is not None
            judged[a, b] += said.weight * datum.weight
            judged_count[a, b] += 1
    weight = np.where(judged_count > 0, judged / judged_count.clip(1), weight)
    stated = np.where(stated_count > 0, stated / stated_count.clip(1), np.nan)
    return Evidence(
        mask=torch.ones(1, k, dtype=torch.bool),
        quality=torch.from_numpy(quality)[None],
        stated=torch.from_numpy(stated.astype(np.float32))[None],
        votes=torch.from_numpy(votes)[None],
        weight=torch.from_numpy(weight)[None],
    )
