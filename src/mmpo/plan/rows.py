"""The lengths that a plan is made for: prompts and responses in tokens, and how they fall into micro-batches."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmpo.batch.collate import by_cost
from mmpo.batch.pack import pack
from mmpo.batch.tokenize import Encoded
from mmpo.errors import UserError
from mmpo.models.packed import Layout
from mmpo.models.padded import Padded
from mmpo.types import Tokens

Row = tuple[int, tuple[int, ...]]
"""Tokens of a prompt, and tokens of each of its responses."""

SAMPLE = 64
"""Steps that are drawn to find what a step takes on average."""


@dataclass(frozen=True)
class Lengths:
    """The rows of a run, where they come from, and how many prompts an epoch has (None: not known)."""

    rows: tuple[Row, ...]
    source: str
    prompts: int | None = None

    def steps(self, prompts: int, micro_batch_tokens: int, layout: Layout, seed: int = 0) -> list[list[list[Row]]]:
        """Some steps of so many prompts on one device, each as its micro-batches."""
        draw = random.Random(seed)
        if len(set(self.rows)) == 1:
            return [cut([self.rows[0]] * prompts, micro_batch_tokens, layout)]
        few = min(SAMPLE, max(1, len(self.rows) // prompts))
        order = draw.sample(self.rows, min(len(self.rows), few * prompts))
        drawn = [order[n * prompts : (n + 1) * prompts] for n in range(few)]
        return [cut(rows, micro_batch_tokens, layout) for rows in drawn]

    def worst(self, prompts: int, micro_batch_tokens: int, layout: Layout) -> list[Row]:
        """The largest micro-batch of a step that gets the longest of all prompts."""
        longest = sorted(self.rows, key=lambda row: cost(row, layout), reverse=True)
        some = longest[:prompts] if len(longest) >= prompts else (longest * prompts)[:prompts]
        return max(cut(some, micro_batch_tokens, layout), key=lambda rows: sum(cost(row, layout) for row in rows))


def cost(row: Row, layout: Layout) -> int:
    """Tokens that a row takes, as the collator counts them."""
    prompt, responses = row
    return prompt * (1 if layout == "shared" else len(responses)) + sum(responses)


def cut(rows: Sequence[Row], micro_batch_tokens: int, layout: Layout) -> list[list[Row]]:
    """The micro-batches of a step."""
    groups = by_cost([cost(row, layout) for row in rows], micro_batch_tokens)
    return [[rows[n] for n in group] for group in groups]


def tokens(rows: Sequence[Row], shared: bool) -> Tokens:
    """The rows as a batch of zeros."""
    data = [Encoded("", (0,) * prompt, tuple((0,) * r for r in responses)) for prompt, responses in rows]
    return pack(data, max(len(responses) for _, responses in rows), 0, None, shared)


@dataclass(frozen=True)
class PaddedBlock:
    """Sequences that are read as one padded block: how many, how wide, at how many places each has logits, and how many
    tokens are scored in all."""

    rows: int
    width: int
    logits: int
    scored: int


def padded_blocks(rows: Sequence[Row]) -> list[PaddedBlock]:
    """How the padded path reads these rows."""
    found = []
    for _, chunk in Padded.of(tokens(rows, False)).chunks():
        (n, width), scored = chunk.input_ids.shape, chunk.number >= 0
        start = max(1, int(scored.any(0).long().argmax()))
        found.append(PaddedBlock(n, width, width - start + 1, int(torch.count_nonzero(scored))))
    return found


def stated(text: str) -> Row:
    """``300+4x250`` as a row: a prompt of 300 tokens with 4 responses of 250. Raises UserError for anything else."""
    found = re.fullmatch(r"(\d+)\+(\d+)x(\d+)", text.replace(" ", ""))
    if found is None or 0 in (numbers := tuple(map(int, found.groups()))):
        raise UserError(f"--plan-row is {text!r}; write PROMPT+KxRESPONSE in tokens, such as 300+4x250")
    return numbers[0], (numbers[2],) * numbers[1]
