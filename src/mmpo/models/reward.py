"""Reward models: one number a response from a sequence classifier with one label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmpo.models.grid import in_chunks, to_grid
from mmpo.types import Batch, Reading, Tokens


@dataclass(frozen=True)
class RewardReader:
    """Reads the raw score of an AutoModelForSequenceClassification with one label."""

    def __call__(self, model: Any, batch: Batch) -> Reading:
        def scores(tokens: Tokens) -> Tensor:
            output = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, **tokens.extra)
            return output.logits.squeeze(-1)

        return Reading(
            mask=batch.evidence.mask,
            rewards=to_grid(in_chunks(scores, batch.tokens), batch),
            lengths=to_grid(batch.tokens.response_mask.sum(-1), batch),
        )
