"""How much work a training step needs, and how much the machine can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mmpo.plan.rate import rate
from mmpo.plan.rows import Row
from mmpo.plan.work import load


def row_flops(config: Any, row: Row, vocabulary: int) -> int:
    """FLOPs to read one prompt of p tokens and its responses of r_1 ... r_K tokens once, forward, nothing padded.

    A product of [m, k] and [k, n] is 2 m k n FLOPs. With H the hidden size, D the size of all query heads together and
    E that of all key heads, I the intermediate size and L layers:

        weights     2 (p + sum r) L (2 H D + 2 H E + 3 H I)    queries and output, keys and values, the three of the MLP
        attention   4 D L (p (p + 1) / 2 + sum (r p + r (r + 1) / 2))
                    for each query and each key it sees, q . k and the weighted sum of v: 2 D each. A token sees itself,
                    what stands before it in its own text, and a response its prompt.
        head        2 H ``vocabulary`` sum r                   each response token is scored once, from the one before

    Norms, activations and softmax are left out: they are no matrix products. A reward model has ``vocabulary`` 0; its
    head of H x 1 for one token a response does not count.
    """
    read = load([row], "shared")
    h, heads, layers = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    size = getattr(config, "head_dim", None) or h // heads
    d, e = heads * size, config.num_key_value_heads * size
    weights = 2 * read.tokens * layers * (2 * h * d + 2 * h * e + 3 * h * config.intermediate_size)
    return int(weights + 4 * d * layers * read.seen + 2 * h * vocabulary * read.scored)


def step_flops(config: Any, rows: Sequence[Row], *, policy: bool, live_reference: bool) -> int:
    """FLOPs that training on these rows needs: forward and twice as much backward, and one forward of the reference.

    Backward, each product has two of the same size: the gradients of its two factors. Nothing is computed twice.
    """
    forward = sum(row_flops(config, row, config.vocab_size if policy else 0) for row in rows)
    return (3 + live_reference) * forward


def peak_flops(config: Any, dtype: torch.dtype, device: str, seconds: float = 0.25) -> float:
    """The most FLOPs a second that this machine was seen to do in one matrix product: large ones, and the model's own.

    Of each product the best of several bursts counts, and of all products the best.
    """
    large = 8192 if device == "cuda" else 2048
    h, i = config.hidden_size, config.intermediate_size
    products = [
        (large, large, large),
        *((m, *kn) for m in (1024, 4096) for kn in ((h, i), (i, h), (h, config.vocab_size))),
    ]
    return max(rate(*product, dtype, device, seconds) for product in products)
