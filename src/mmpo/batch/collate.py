"""Encoded data -> Batch: the threshold between text and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmpo.batch.statements import evidence, stack
from mmpo.batch.tokenize import Encoded, Frame, Limits, encode_all, pair_frame
from mmpo.errors import OnBadRow, UserError
from mmpo.types import Batch, Datum, Evidence, Tokens


@dataclass(frozen=True)
class Example:
    """A datum ready to be batched: its tokens, its evidence (B = 1), and [K] reference log-probs where known."""

    encoded: Encoded
    evidence: Evidence
    ref_logps: Tensor | None = None

    @classmethod
    def of(cls, datum: Datum, encoded: Encoded) -> Example:
        return cls(encoded, evidence([datum]))

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return len(self.encoded.prompt) + max(map(len, self.encoded.responses))


def prepare(
    data: Sequence[Datum], tokenizer: Any, limits: Limits, on_bad_row: OnBadRow = "error"
) -> tuple[list[Example], dict[str, Any]]:
    """Data -> examples, and the count of what was cut. Raises UserError where nothing is left."""
    kept, cuts = encode_all(data, tokenizer, limits, on_bad_row)
    examples = [Example.of(datum, encoded) for datum, encoded in kept]
    if not examples:
        raise UserError(f"no data is left after tokenising {len(data)} prompts; {cuts.summary()}")
    return examples, cuts.as_dict()


def by_length(examples: Sequence[Example], tokens: int = 16_384) -> list[list[int]]:
    """Indices in batches of like length, each of at most ``tokens`` padded tokens (or one example)."""
    batches: list[list[int]] = []
    room = 0
    for n in sorted(range(len(examples)), key=lambda n: examples[n].length, reverse=True):
        # The first of a batch is its longest, so it sets the price of every further response.
        longest = examples[batches[-1][0]].length if batches else 0
        cost = longest * len(examples[n].encoded.responses)
        if not batches or cost > room:
            batches.append([])
            longest = examples[n].length
            cost, room = longest * len(examples[n].encoded.responses), tokens
        batches[-1].append(n)
        room -= cost
    return batches


@dataclass(frozen=True)
class Collator:
    """Examples -> ``{"batch": Batch}``, padded on the right. Build it with ``Collator.of(tokenizer)``."""

    pad_id: int
    frame: Frame | None = None

    @classmethod
    def of(cls, tokenizer: Any) -> Collator:
        if tokenizer.pad_token_id is None:
            raise UserError(
                "the tokenizer has no pad token; name one with pad_token, for example pad_token: '<|pad|>' "
                "(it is added to the vocabulary if it is new)"
            )
        return cls(tokenizer.pad_token_id, pair_frame(tokenizer))

    def __call__(self, examples: Sequence[Example]) -> dict[str, Batch]:
        return {"batch": self.batch(examples)}

    def longest(self, examples: Sequence[Example]) -> int:
        """Tokens of the longest sequence, special tokens of a text pair included."""
        frame = self.frame or Frame((), (), (), 0)
        around = len(frame.head) + len(frame.middle) + len(frame.tail)
        return max((example.length for example in examples), default=0) + around

    def batch(self, examples: Sequence[Example]) -> Batch:
        stated = stack([example.evidence for example in examples])
        known = [example.ref_logps for example in examples]
        return Batch(
            ids=tuple(example.encoded.id for example in examples),
            tokens=self._tokens(examples, stated.mask.shape[1]),
            evidence=stated,
            ref_logps=None if None in known else pad_sequence(known, batch_first=True),  # type: ignore[arg-type]
        )

    def _tokens(self, examples: Sequence[Example], k: int) -> Tokens:
        frame = self.frame or Frame((), (), (), 0)
        rows, roles, slots = [], [], []
        for b, example in enumerate(examples):
            opening = (*frame.head, *example.encoded.prompt, *frame.middle)
            for i, response in enumerate(example.encoded.responses):
                rows.append(torch.tensor(opening + response + frame.tail))
                roles.append(torch.tensor([0] * len(opening) + [1] * len(response) + [2] * len(frame.tail)))
                slots.append(b * k + i)
        role = pad_sequence(roles, batch_first=True, padding_value=-1)
        real = role >= 0
        typed = frame.response_type > 0
        return Tokens(
            input_ids=pad_sequence(rows, batch_first=True, padding_value=self.pad_id),
            attention_mask=real.long(),
            response_mask=(role == 1).long(),
            slot=torch.tensor(slots),
            extra={"token_type_ids": (role >= 1).long() * frame.response_type} if typed else {},
        )
