"""Encoded data -> Batch: the threshold between text and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from mmpo.batch.example import Example, sizes_of
from mmpo.batch.pack import pack
from mmpo.batch.statements import stack
from mmpo.batch.tokenize import Frame, pair_frame
from mmpo.errors import UserError
from mmpo.types import Batch

READ_TOKENS = 16_384
"""Tokens that are read at once where no gradient is taken."""


def micro_batch_tokens(device: str) -> int:
    """Tokens of a micro-batch where nobody says: few on a CPU, for its caches; elsewhere enough to keep it busy."""
    return 2048 if device == "cpu" else 8192


def by_cost(costs: Sequence[int], most: int) -> list[list[int]]:
    """Indices in groups of like cost, the costliest first, each group of at most ``most`` in sum (or one index)."""
    groups: list[list[int]] = []
    room = 0
    for n in sorted(range(len(costs)), key=lambda n: costs[n], reverse=True):
        if not groups or costs[n] > room:
            groups.append([])
            room = most
        groups[-1].append(n)
        room -= costs[n]
    return groups


@dataclass(frozen=True)
class Collator:
    """Examples -> ``{"batch": (Batch, ...)}``, the micro-batches of a step. Build it with ``Collator.of(tokenizer)``.

    Attributes:
        pad_id: the padding token.
        frame: the special tokens of an encoder's text pairs.
        shared: whether a prompt stands once before all its responses.
        micro_batch_tokens: a micro-batch holds at most so many tokens, or one prompt.
    """

    pad_id: int
    frame: Frame | None = None
    shared: bool = True
    micro_batch_tokens: int = READ_TOKENS

    @classmethod
    def of(cls, tokenizer: Any, shared: bool = True, micro_batch_tokens: int = READ_TOKENS) -> Collator:
        if tokenizer.pad_token_id is None:
            raise UserError(
                "the tokenizer has no pad token; name one with pad_token, for example pad_token: '<|pad|>' "
                "(it is added to the vocabulary if it is new)"
            )
        return cls(tokenizer.pad_token_id, pair_frame(tokenizer), shared, micro_batch_tokens)

    def __call__(self, examples: Sequence[Example]) -> dict[str, tuple[Batch, ...]]:
        chunks = self.chunks(examples, self.micro_batch_tokens)
        return {"batch": tuple(self.batch([examples[n] for n in chunk]) for chunk in chunks)}

    def costs(self, examples: Sequence[Example]) -> NDArray[np.int64]:
        """[N], the tokens that each example takes on a row."""
        sizes = sizes_of(examples)
        prompts = 1 if self.shared and self.frame is None else sizes.k
        found: NDArray[np.int64] = prompts * (sizes.prompt + self._around) + sizes.responses
        return found

    def longest(self, examples: Sequence[Example]) -> int:
        """Tokens of the longest sequence, special tokens of a text pair included."""
        sizes = sizes_of(examples)
        return int((sizes.prompt + sizes.longest).max(initial=0)) + self._around

    @property
    def _around(self) -> int:
        return 0 if self.frame is None else len(self.frame.head + self.frame.middle + self.frame.tail)

    def chunks(
        self, examples: Sequence[Example], tokens: int = READ_TOKENS, *, among: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Indices of the examples in groups of like size, each of at most ``tokens`` tokens, or one example; with
        ``among`` of these alone."""
        costs = self.costs(examples)
        chosen = range(len(costs)) if among is None else among
        groups = by_cost((costs if among is None else costs[among]).tolist(), tokens)
        return [[chosen[n] for n in group] for group in groups]

    def batch(self, examples: Sequence[Example]) -> Batch:
        """One row of all the examples, and what was said about them."""
        stated = stack([example.evidence for example in examples])
        known = [example.ref_logps for example in examples]
        return Batch(
            ids=tuple(example.encoded.id for example in examples),
            tokens=pack(
                [example.encoded for example in examples], stated.mask.shape[1], self.pad_id, self.frame, self.shared
            ),
            evidence=stated,
            ref_logps=None if None in known else pad_sequence(known, batch_first=True),  # type: ignore[arg-type]
        )
