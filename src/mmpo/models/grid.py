"""Between N sequences and the [B, K] grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, distributed

from mmpo.types import Batch, Tokens

CHUNK = 16
WASTE = 0.2
"""Share of padding up to which all sequences are read as one block."""


def to_grid(values: Tensor, batch: Batch) -> Tensor:
    """[N] values of the sequences -> [B, K] in fp32, 0 where there is no response."""
    b, k = batch.evidence.mask.shape
    values = values.float()
    return values.new_zeros(b * k).index_copy(0, batch.tokens.slot, values).view(b, k)


def in_chunks(read: Callable[[Tokens], Tensor], tokens: Tokens, size: int = CHUNK) -> Tensor:
    """Apply ``read`` (Tokens [n, t] -> [n]) to sequences of like length together, each chunk without needless padding.

    Many responses to a prompt differ much in length; one padded block of them all would be mostly padding. With several
    processes everything is read at once, since each of them must run the model equally often.
    """
    lengths = tokens.attention_mask.sum(-1)
    padding = 1 - float(lengths.sum()) / tokens.attention_mask.numel()
    alone = not (distributed.is_available() and distributed.is_initialized())
    if len(tokens.slot) <= size or padding <= WASTE or not alone:
        return read(tokens)
    order = lengths.argsort()
    parts = [read(_take(tokens, rows, int(lengths[rows].max()))) for rows in order.split(size)]
    return torch.cat(parts)[order.argsort()]


def _take(tokens: Tokens, rows: Tensor, length: int) -> Tokens:
    """Some of the sequences, cut to the longest of them."""
    return replace(
        tokens,
        input_ids=tokens.input_ids[rows, :length],
        attention_mask=tokens.attention_mask[rows, :length],
        response_mask=tokens.response_mask[rows, :length],
        slot=tokens.slot[rows],
        extra={name: value[rows, :length] for name, value in tokens.extra.items()},
    )
