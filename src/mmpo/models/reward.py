"""Reward models: one number a response from a sequence classifier with one label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmpo.models.grid import to_grid
from mmpo.types import Batch, Reading


@dataclass(frozen=True)
class RewardReader:
    """Reads the raw score of an AutoModelForSequenceClassification with one label."""

    def __call__(self, model: Any, batch: Batch) -> Reading:
        tokens = batch.tokens
        scores = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, **tokens.extra).logits
        return Reading(
            mask=batch.evidence.mask,
            rewards=to_grid(scores.squeeze(-1), batch),
            lengths=to_grid(tokens.response_mask.sum(-1).float(), batch),
        )
