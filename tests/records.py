"""Evidence and readings as the laws need them: of one source or several, cut, permuted, padded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from mmpo.types import Evidence, Reading

Record = TypeVar("Record", Evidence, Reading)


def said(make_evidence: Callable[..., Evidence], k: int, seed: int = 0, b: int = 4) -> Evidence:
    """Grades with ties, votes on some pairs, random weights, and pairs that nobody compared."""
    return make_evidence(b, k, seed, votes=True, weighted=True)


def graded(make_evidence: Callable[..., Evidence], b: int, k: int) -> Evidence:
    """Grades alone, with ties."""
    return make_evidence(b, k, weighted=True)


def voted(make_evidence: Callable[..., Evidence], b: int, k: int) -> Evidence:
    """Votes alone, on every pair, with ties."""
    evidence = make_evidence(b, k, weighted=True)
    count = torch.randint(0, 3, (b, k, k), generator=torch.Generator().manual_seed(3)).double()
    unanimous = (count + count.mT == 0) * torch.ones(k, k).triu(1)
    return replace(evidence, quality=torch.full_like(evidence.quality, math.nan), votes=count + unanimous)


def each(record: Record, change: Callable[[Tensor], Tensor]) -> Record:
    """The record with every tensor changed."""

    def changed(value: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        return {name: change(x) for name, x in value.items()} if isinstance(value, dict) else change(value)

    return replace(record, **{field.name: changed(getattr(record, field.name)) for field in fields(record)})


def fresh(reading: Reading) -> Reading:
    """The same reading with new leaves."""
    leaves = {name: reading.require(name).detach().requires_grad_() for name in ("logps", "rewards")}
    return replace(reading, **leaves)


def row(evidence: Evidence, reading: Reading, i: int) -> tuple[Evidence, Reading]:
    """Datum ``i`` alone."""
    return each(evidence, lambda x: x[i : i + 1]), fresh(each(reading, lambda x: x[i : i + 1]))


def permuted(evidence: Evidence, reading: Reading, order: Tensor) -> tuple[Evidence, Reading]:
    def square(x: Tensor) -> Tensor:
        return x[:, order][:, :, order]

    moved = Evidence(
        evidence.mask[:, order],
        evidence.quality[:, order],
        square(evidence.stated),
        square(evidence.votes),
        square(evidence.weight),
    )
    return moved, fresh(each(reading, lambda x: x[:, order]))


def padded(evidence: Evidence, reading: Reading, extra: int, filler: float) -> tuple[Evidence, Reading]:
    """``extra`` responses that do not exist, at the end; what the model says of them is ``filler``."""

    def grow(x: Tensor, value: float) -> Tensor:
        return torch.nn.functional.pad(x, (0, extra) * (x.dim() - 1), value=value)

    longer = Evidence(
        grow(evidence.mask, 0),
        grow(evidence.quality, math.nan),
        grow(evidence.stated, math.nan),
        grow(evidence.votes, 0),
        grow(evidence.weight, 0),
    )
    more = each(reading, lambda x: grow(x, 0 if x.dtype == torch.bool else filler))
    return longer, fresh(more)
