"""Reading responses as padded sequences, each with its own copy of the prompt: the path that every model can take."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from mmpo.batch.pack import spread_out
from mmpo.models.head import TokenReadings, read_logits
from mmpo.types import Tokens

CHUNK = 16
WASTE = 0.2
"""Share of padding up to which all sequences are read as one block."""


@dataclass(frozen=True)
class Padded:
    """Sequences as rows of their own, padded on the right.

    Attributes:
        input_ids: [n, t].
        attention_mask: [n, t], 1 on real tokens.
        number: [n, t] which of the M scored tokens stands here, -1 where none does.
        extra: further model inputs of shape [n, t].
    """

    input_ids: Tensor
    attention_mask: Tensor
    number: Tensor
    extra: dict[str, Tensor]

    @classmethod
    def of(cls, tokens: Tokens) -> Padded:
        at, real = spread_out(tokens)
        number = torch.full_like(at, -1)
        # In a row of its own a token stands where its position says.
        number[tokens.sequence, tokens.position_ids[tokens.scored]] = torch.arange(len(tokens.scored), device=at.device)
        return cls(
            torch.where(real, tokens.input_ids[at], tokens.pad_id),
            real.long(),
            number,
            {name: torch.where(real, value[at], 0) for name, value in tokens.extra.items()},
        )

    def rows(self, rows: Tensor) -> Padded:
        """Some of the sequences, cut to the longest of them."""
        length = int(self.attention_mask[rows].sum(-1).max())
        return Padded(
            self.input_ids[rows, :length],
            self.attention_mask[rows, :length],
            self.number[rows, :length],
            {name: value[rows, :length] for name, value in self.extra.items()},
        )

    def chunks(self, size: int = CHUNK) -> list[tuple[Tensor, Padded]]:
        """Sequences of like length together, each chunk without needless padding, with the rows it holds.

        Many responses to a prompt differ much in length; one padded block of them all would be mostly padding. With
        several processes everything is one chunk, since each of them must run the model equally often.
        """
        lengths = self.attention_mask.sum(-1)
        padding = 1 - float(lengths.sum()) / self.attention_mask.numel()
        alone = not (distributed.is_available() and distributed.is_initialized())
        if len(lengths) <= size or padding <= WASTE or not alone:
            return [(torch.arange(len(lengths), device=lengths.device), self)]
        return [(rows, self.rows(rows)) for rows in lengths.argsort().split(size)]


def token_readings(model: Any, tokens: Tokens, statistics: Collection[str] = ()) -> TokenReadings:
    """What a causal language model says of the M scored tokens."""
    numbers, found = [], []
    for _, chunk in Padded.of(tokens).chunks():
        numbers.append(chunk.number[chunk.number >= 0])
        found.append(_read(model, chunk, statistics))
    return TokenReadings.joined(found, torch.cat(numbers).argsort())


def _read(model: Any, padded: Padded, statistics: Collection[str]) -> TokenReadings:
    """Logits are asked for from the first scored token of the chunk on, where the model can leave out the rest."""
    scored = padded.number >= 0
    start = max(1, int(scored.any(0).long().argmax()))
    keep = padded.input_ids.shape[1] - start + 1
    partial = {"logits_to_keep": keep} if _can_keep(model) else {}
    logits = model(
        input_ids=padded.input_ids, attention_mask=padded.attention_mask, use_cache=False, **padded.extra, **partial
    ).logits
    predicted, here = logits[:, -keep:-1], scored[:, start:]
    return read_logits(predicted[here], padded.input_ids[:, start:][here], statistics)


def _can_keep(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(innermost(model).forward).parameters


def innermost(model: Any) -> Any:
    """The transformers model under wrappers and adapters."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def scores(model: Any, tokens: Tokens) -> Tensor:
    """[N] scores of a sequence classifier with one label."""
    rows, found = [], []
    for held, chunk in Padded.of(tokens).chunks():
        output = model(input_ids=chunk.input_ids, attention_mask=chunk.attention_mask, **chunk.extra)
        rows.append(held)
        found.append(output.logits.squeeze(-1))
    return torch.cat(found)[torch.cat(rows).argsort()]
