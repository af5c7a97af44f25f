"""Reward models: one number a response from a sequence classifier with one label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmpo.models import packed, padded
from mmpo.models.grid import to_grid
from mmpo.types import Batch, Reading


@dataclass(frozen=True)
class RewardReader:
    """Reads the raw score of an AutoModelForSequenceClassification with one label."""

    def __call__(self, model: Any, batch: Batch) -> Reading:
        path = packed if packed.is_enabled(model) else padded
        return Reading(
            mask=batch.evidence.mask,
            rewards=to_grid(path.scores(model, batch.tokens), batch),
            lengths=to_grid(batch.tokens.lengths, batch),
        )
