"""Targets that leave comparisons out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.targets.window import empty, of_label, push, rank
from mmpo.types import Evidence, Reading, Target


@dataclass(frozen=True)
class SmallLoss(Target):
    """Labels that the seen model finds easy: P = 0 for the share ``noise_rate`` with the lowest margin M of the label.

    The selection of co-teaching and of CRM, arXiv 2505.10597; the logistic loss falls with the margin, so these are
    the labels of largest loss. A margin is ranked among the last ``window`` seen ones, for a micro-batch is too small
    to rank within. Places that are still empty count as lower, so nothing is dropped at first and the share grows to
    ``noise_rate`` as the window fills: it is the warm-up too, and a short one lets a model believe its first guesses.
    The mean over a step still counts the prompts whose comparisons were dropped.

    With ``scores.PeerReviewed`` the peer selects; with any other score the model reviews itself. Limits: noise_rate = 0
    is ``of``. Relations: ``SmoothUnsure`` softens what this one drops.
    """

    of: Target
    noise_rate: float = 0.2
    window: int = 4096

    def __post_init__(self) -> None:
        if not 0 <= self.noise_rate < 1:
            raise UserError(f"noise_rate is {self.noise_rate:g}; the share of labels to drop is at least 0 and below 1")

    @property
    def equation(self) -> str:
        return f"{self.of.equation}; P <- 0 where M of the label is among the lowest {self.noise_rate:g}"

    def __call__(self, evidence: Evidence, m: Tensor) -> Tensor:
        p = self.of(evidence, m)
        seen = evidence.memory.get("reviewed", empty(self.window))
        return torch.where(rank(of_label(p, m), seen) >= self.noise_rate, p, 0.0)

    def memory(self, voices: int) -> dict[str, Tensor]:
        return {"reviewed": empty(self.window)}

    def observe(self, evidence: Evidence, reading: Reading, m: Tensor) -> dict[str, Tensor]:
        p = self.of(evidence, m)
        return {"reviewed": of_label(p, m)[(p != 0).logical_or(p.mT != 0).triu(1)]}

    def remember(self, memory: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"reviewed": push(memory["reviewed"], observed["reviewed"])}
