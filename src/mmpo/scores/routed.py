"""A reward that weighs its attributes anew for each prompt."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mmpo.scores.groups import ROUTER
from mmpo.scores.voices import WeightedVoices
from mmpo.types import Reading


@dataclass(frozen=True)
class RoutedVoices(WeightedVoices):
    """An output for each attribute, weighed by the prompt: s = sum_v g_v(x) o_v(x, y), g = softmax of a linear head at
    the end of the prompt.

    Preference Orchestrator, arXiv 2511.10656. With a ``weighting`` of the user those weights count and not the
    prompt's. Needs a decoder that is read on packed rows. Limits: one attribute is ``Given``; a head that looks at no
    prompt gives ``WeightedVoices``. Relations: ``Routed`` has heads without a name, and as many as you say.
    """

    @property
    def equation(self) -> str:
        if self.weighting:
            return super().equation
        return "M_ij = s_i - s_j, s = sum_v g_v(x) o_v(x, y), g = softmax of a head on the prompt"

    def on_prompt(self, voices: int) -> dict[str, int]:
        return {ROUTER: self.outputs(voices)}

    def weights(self, reading: Reading) -> Tensor | None:
        return super().weights(reading) if self.weighting else reading.of_prompt[ROUTER].softmax(-1)
