"""Many sequences on one row: each prompt once, its responses behind it, nothing padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mmpo.batch.reading import Ids
from mmpo.batch.tokenize import Encoded, Frame
from mmpo.types import Tokens


class _Response(NamedTuple):
    ids: Ids
    slot: int
    opening: int
    marks: Ids


@dataclass
class _Row:
    """The row as it grows."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    trees: list[tuple[int, ...]] = field(default_factory=list)
    slot: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    opening: list[bool] = field(default_factory=list)
    marked: list[bool] = field(default_factory=list)

    def tree(self, prompt: Ids, responses: Sequence[_Response], tail: Ids, response_type: int) -> None:
        root, p = len(self.ids), len(prompt)
        self._put(prompt, 0, 0)
        for one in responses:
            response, slot = one.ids, one.slot
            start, r = len(self.ids), len(response)
            # The first token of a response follows the prompt; with no prompt nothing stands before it.
            head = [root + p - 1] if p else []
            self.before += [*head, *range(start, start + r - 1)]
            self.scored += range(start + (not p), start + r)
            self.sequence += [len(self.slot)] * (r - (not p))
            self.opening += ([True] * one.opening + [False] * (r - one.opening))[not p :]
            marked = [False] * r
            for place in one.marks:
                marked[place] = True
            self.marked += marked[not p :]
            self._put((*response, *tail), p, response_type)
            self.slot.append(slot)
            self.lengths.append(r - one.opening)
            self.first.append(root if p else start)
            self.last.append(len(self.ids) - 1)
        self.trees.append((p, *(len(one.ids) + len(tail) for one in responses)))

    def _put(self, ids: Ids, position: int, kind: int) -> None:
        self.ids += ids
        self.positions += range(position, position + len(ids))
        self.types += [kind] * len(ids)


def pack(data: Sequence[Encoded], k: int, pad_id: int, frame: Frame | None = None, shared: bool = True) -> Tokens:
    """Put the sequences of B data on one row, for a grid of B x ``k``.

    ``shared`` puts each prompt once; else it is repeated before every response. An encoder's ``frame`` joins prompt and
    response into one text that is read in both directions, so that its prompts are always repeated.
    """
    row = _Row()
    for b, encoded in enumerate(data):
        responses = [
            _Response(ids, b * k + i, encoded.opening(i), encoded.marks[i] if encoded.marks else ())
            for i, ids in enumerate(encoded.responses)
        ]
        if frame is not None:
            for one in responses:
                own = (*encoded.prompt, *one.ids[: one.opening])
                answer = one._replace(ids=one.ids[one.opening :], opening=0)
                row.tree((*frame.head, *own, *frame.middle), [answer], frame.tail, frame.response_type)
            continue
        for group in [responses] if shared else [[one] for one in responses]:
            row.tree(encoded.prompt, group, (), 0)
    return Tokens(
        input_ids=torch.tensor(row.ids),
        position_ids=torch.tensor(row.positions),
        trees=tuple(row.trees),
        slot=torch.tensor(row.slot),
        lengths=torch.tensor(row.lengths),
        first=torch.tensor(row.first),
        last=torch.tensor(row.last),
        scored=torch.tensor(row.scored, dtype=torch.long),
        before=torch.tensor(row.before, dtype=torch.long),
        sequence=torch.tensor(row.sequence, dtype=torch.long),
        pad_id=pad_id,
        extra={"token_type_ids": torch.tensor(row.types)} if frame and frame.response_type else {},
        opening=torch.tensor(row.opening) if any(row.opening) else None,
        marked=torch.tensor(row.marked) if any(row.marked) else None,
    )


def spread_out(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Where the tokens of each sequence stand on the row: ([N, T] indices, [N, T] bool, the places that are real)."""
    rows = []
    start = 0
    for prompt, *responses in tokens.trees:
        at = start + prompt
        for length in responses:
            rows.append(torch.cat([torch.arange(start, start + prompt), torch.arange(at, at + length)]))
            at += length
        start = at
    indices = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).to(tokens.input_ids.device)
    return indices.clamp_min(0), indices >= 0
