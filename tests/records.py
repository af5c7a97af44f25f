"""Evidence and readings as the laws need them: of one source or several, cut, permuted, padded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmpo.types import Evidence, Method, PerToken, Reading, Voices

Record = TypeVar("Record", Evidence, Reading, Voices)


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
    """The record with every tensor changed; what is told of single tokens stays as it is."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: change(x) for name, x in value.items()}
        return change(value) if isinstance(value, Tensor) else value

    return replace(record, **{field.name: changed(getattr(record, field.name)) for field in fields(record)})


PROBED = ("kl", "teacher_kl", "advantage", "extrapolated")
"""Names under which the methods of the catalogue look for what was found at each token."""


def with_tokens(reading: Reading, seed: int = 2, spread: float = 1.0) -> Reading:
    """The reading told token by token: each response has five tokens, and two of its own prompt before them.

    The log-probs of the five sum to those of the response; two of them are marked. With ``spread`` 0 all tokens are
    alike, and no comparison found anything.
    """
    b, k = reading.mask.shape
    draw = torch.Generator().manual_seed(seed)
    opening = torch.tensor([True, True, False, False, False, False, False]).expand(b, k, 7)
    marked = torch.tensor([False, False, True, False, True, False, False]).expand(b, k, 7)

    def noise(scale: float = 1.0) -> Tensor:
        values = scale * spread * torch.randn(b, k, 7, generator=draw, dtype=torch.float64)
        return torch.where(opening, values, values - values[..., 2:].mean(-1, keepdim=True))

    def told(sums: Tensor) -> Tensor:
        return (sums[..., None] / 5 + noise()).flatten()

    tokens = PerToken(
        cell=torch.arange(b * k).repeat_interleave(7),
        shape=(b, k),
        logps=told(reading.require("logps")),
        ref_logps=told(reading.require("ref_logps")),
        opening=opening.flatten(),
        marked=marked.flatten(),
        probed={name: noise(0.3).abs().flatten() for name in PROBED},
        weights={name: (1 + noise()).abs().flatten() for name in ("reward", "kl")},
    )
    return replace(reading, tokens=tokens)


def of_cells(tokens: PerToken, cells: Tensor, shape: tuple[int, int]) -> PerToken:
    """The tokens whose cell has a new place in ``cells`` [old B * K], which is -1 for those that are gone."""
    at = cells[tokens.cell]
    kept = at >= 0

    def pick(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: x[kept] for name, x in value.items()}
        return value[kept] if isinstance(value, Tensor) else value

    picked = {f.name: pick(getattr(tokens, f.name)) for f in fields(tokens)}
    return PerToken(**{**picked, "cell": at[kept], "shape": shape})


def fresh(reading: Reading, **moved: Tensor) -> Reading:
    """The same reading with new leaves, log-probs and rewards, on which its tokens, errors and features hang.

    A leaf may move to another value, and what hangs on it moves along.
    """
    leaves = {name: moved.get(name, reading.require(name)).detach().requires_grad_() for name in ("logps", "rewards")}
    out = replace(reading, **leaves)
    old, new = reading.require("logps").detach(), leaves["logps"]
    if reading.errors is not None:
        out = replace(out, errors=reading.errors.detach() - 0.01 * (new - old))
    if reading.features is not None:
        out = replace(out, features=reading.features.detach() + 0.01 * (new - old)[..., None])
    if reading.tokens is not None:
        moved = ((new - old) / 5).flatten()[reading.tokens.cell]
        out = replace(out, tokens=replace(reading.tokens, logps=reading.tokens.logps.detach() + moved))
    return out


def equipped(method: Method, reading: Reading, voices: int = 4) -> Reading:
    """The reading with the outputs, the heads and the tables that the method asks of a reward model.

    They hang on what the reading holds of each response and prompt, so that they move with its rewards and are alike
    wherever a response stands and whatever stands beside it.
    """
    if "outputs" not in method.needs:
        return reading
    own, there = reading.require("ref_logps")[..., None], reading.mask
    noise = 0.3 * torch.sin(own * torch.arange(1, 1 + method.score.outputs(voices)))
    about = (reading.require("ref_logps") * there).sum(-1, keepdim=True) / there.sum(-1, keepdim=True)
    draw = torch.Generator().manual_seed(4)
    return replace(
        reading,
        outputs=reading.require("rewards")[..., None] + noise,
        of_prompt={name: torch.sin(about * torch.arange(1, 1 + n)) for name, n in method.on_prompt(voices).items()},
        tables={
            name: torch.randn(shape, generator=draw, dtype=torch.float64)
            for name, shape in method.tables(voices).items()
        },
    )


def row(evidence: Evidence, reading: Reading, i: int) -> tuple[Evidence, Reading]:
    """Datum ``i`` alone."""
    alone = each(reading, lambda x: x[i : i + 1])
    if reading.tokens is not None:
        b, k = reading.tokens.shape
        cells = torch.full((b, k), -1)
        cells[i] = torch.arange(k)
        alone = replace(alone, tokens=of_cells(reading.tokens, cells.flatten(), (1, k)))
    said = each(replace(evidence, memory={}), lambda x: x[i : i + 1])
    if evidence.voices is not None:
        said = replace(said, voices=each(evidence.voices, lambda x: x[i : i + 1]))
    return replace(said, memory=evidence.memory), fresh(alone)


def permuted(evidence: Evidence, reading: Reading, order: Tensor) -> tuple[Evidence, Reading]:
    """The responses in another order, or some of them."""

    def moved(x: Tensor, dims: int) -> Tensor:
        for dim in range(1, dims + 1):
            x = x.index_select(-dim, order)
        return x

    said = of_responses(evidence, moved, {})
    out = each(reading, lambda x: x[:, order])
    if reading.tokens is not None:
        b, k = reading.tokens.shape
        cells = torch.full((b, k), -1)
        cells[:, order] = torch.arange(b * len(order)).view(b, -1)
        out = replace(out, tokens=of_cells(reading.tokens, cells.flatten(), (b, len(order))))
    return said, fresh(out)


def padded(evidence: Evidence, reading: Reading, extra: int, filler: float) -> tuple[Evidence, Reading]:
    """``extra`` responses that do not exist, at the end; what the model says of them is ``filler``."""

    def grown(x: Tensor, dims: int, value: float = 0.0) -> Tensor:
        return torch.nn.functional.pad(x, (0, extra) * dims, value=value)

    def more(x: Tensor) -> Tensor:
        room = x.new_full((len(x), extra, *x.shape[2:]), 0 if x.dtype == torch.bool else filler)
        return torch.cat([x, room], 1)

    out = each(reading, more)
    if reading.tokens is not None:
        b, k = reading.tokens.shape
        cells = torch.arange(b * (k + extra)).view(b, -1)[:, :k].flatten()
        out = replace(out, tokens=of_cells(reading.tokens, cells, (b, k + extra)))
    return of_responses(evidence, grown, {"quality": math.nan, "stated": math.nan}), fresh(out)


def swapped(evidence: Evidence) -> Evidence:
    """Everybody says the opposite."""

    def opposite(said: Evidence | Voices) -> dict[str, Tensor]:
        return {"quality": -said.quality, "stated": -said.stated, "votes": said.votes.mT}

    people = evidence.voices
    return replace(
        evidence, **opposite(evidence), voices=None if people is None else replace(people, **opposite(people))
    )


def of_responses(evidence: Evidence, change: Callable[..., Tensor], fill: dict[str, float]) -> Evidence:
    """The evidence with its axes of responses changed: ``change(tensor, number of these axes, fill value)``."""

    def changed(record: Evidence | Voices, axes: dict[str, int]) -> dict[str, Tensor]:
        return {
            name: change(x, n, *([fill[name]] if name in fill else []))
            for name, n in axes.items()
            if (x := getattr(record, name)) is not None
        }

    axes = {"quality": 1, "stated": 2, "votes": 2, "weight": 2}
    people = evidence.voices
    return replace(
        evidence,
        **changed(evidence, {"mask": 1, "contrasts": 1, **axes}),
        roles={name: change(x, 1) for name, x in evidence.roles.items()},
        voices=None if people is None else replace(people, **changed(people, axes)),
    )


def with_people(evidence: Evidence) -> Evidence:
    """Everything said by three of four people, whose weights sum to what the evidence has."""
    b, k = evidence.mask.shape
    share = torch.tensor([0.2, 0.3, 0.5], dtype=evidence.weight.dtype)[:, None, None]
    return replace(
        evidence,
        voices=Voices(
            who=torch.tensor([2, 0, 3]).expand(b, 3),
            quality=evidence.quality[:, None].expand(b, 3, k).clone(),
            votes=evidence.votes[:, None].expand(b, 3, k, k).clone(),
            stated=evidence.stated[:, None].expand(b, 3, k, k).clone(),
            weight=share * evidence.weight[:, None],
        ),
    )
