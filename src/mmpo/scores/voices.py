"""Scores of a reward model with several outputs, one for each voice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmpo.types import Reading, Score


@dataclass(frozen=True)
class PerVoice(Score):
    """Each voice has an output of its own: s = o_v(x, y) for what voice v said, and for nobody's in particular the mean
    of all.

    Voices are attributes, people or data sets, whichever the run tells apart. Limit: one voice is ``Given``.
    """

    apart = True
    needs = frozenset({"outputs", "attributes"})

    @property
    def equation(self) -> str:
        return "M_ij = s_i - s_j, s = o_v(x, y) for voice v"

    def outputs(self, voices: int) -> int:
        return max(1, voices - 1)

    def named(self, facets: int, voices: Sequence[str]) -> list[str]:
        return list(voices) or super().named(facets, voices)

    def labels(self, outputs: int, voices: Sequence[str]) -> list[str]:
        return self.named(outputs, voices)

    def facets(self, reading: Reading) -> Tensor:
        return reading.require("outputs")

    def rewards(self, reading: Reading) -> Tensor:
        said = self.facets(reading)
        mean = said.mean(-1)
        if reading.who is None:
            return mean
        own = said.gather(-1, (reading.who - 1).clamp_min(0)[:, None, None].expand(*said.shape[:2], 1)).squeeze(-1)
        return torch.where((reading.who > 0)[:, None], own, mean)
