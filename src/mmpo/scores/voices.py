"""Scores of a reward model with several outputs, one for each voice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmpo.errors import UserError, nearest
from mmpo.types import Method, Reading, Score


@dataclass(frozen=True)
class WeightedVoices(Score):
    """Each voice has an output of its own, and the reward is their weighted sum: s = sum_v w_v o_v(x, y).

    Voices are attributes, people or data sets, whichever the run tells apart. The weights stand in the order of their
    names, and any number will do; without any the sum is the mean. Read from the view of voice v, s = o_v(x, y).
    HelpSteer2, arXiv 2406.08673. Limit: one voice of weight 1 is ``Given``.
    """

    weighting: tuple[float, ...] = ()
    needs = frozenset({"outputs", "attributes"})

    @property
    def equation(self) -> str:
        weights = ", ".join(f"{w:g}" for w in self.weighting)
        return f"M_ij = s_i - s_j, s = sum_v w_v o_v(x, y), {f'w = ({weights})' if weights else 'w all alike'}"

    def outputs(self, voices: int) -> int:
        return max(1, voices - 1)

    def named(self, facets: int, voices: Sequence[str]) -> list[str]:
        return list(voices) or super().named(facets, voices)

    def labels(self, outputs: int, voices: Sequence[str]) -> list[str]:
        return self.named(outputs, voices)

    def facets(self, reading: Reading) -> Tensor:
        return reading.require("outputs")

    def weights(self, reading: Reading) -> Tensor | None:
        return self.facets(reading).new_tensor([self.weighting]) if self.weighting else None

    def rewards(self, reading: Reading) -> Tensor:
        said, weights = self.facets(reading), self.weights(reading)
        anybody = said.mean(-1) if weights is None else (said * weights[:, None]).sum(-1)
        if reading.who is None:
            return anybody
        own = said.gather(-1, (reading.who - 1).clamp_min(0)[:, None, None].expand(*said.shape[:2], 1)).squeeze(-1)
        return torch.where((reading.who > 0)[:, None], own, anybody)


@dataclass(frozen=True)
class PerVoice(WeightedVoices):
    """Each voice has an output of its own: s = o_v(x, y) for what voice v said, and for nobody's in particular the
    weighted sum of all, by default their mean.

    Relations: ``WeightedVoices`` gives one reward for what all said together.
    """

    apart = True

    @property
    def equation(self) -> str:
        return "M_ij = s_i - s_j, s = o_v(x, y) for voice v"


def weighed(method: Method, numbers: Mapping[str, int], weights: Mapping[str, float]) -> Method:
    """The method with these weights of its voices in anybody's view; a voice that is not named has weight 0.

    Args:
        numbers: the voices that the run tells apart, and the number of each from 1.

    Raises:
        UserError: a method that weighs no voices, a voice that there is not, a weight that is no finite number, or none
            but zeros.
    """
    if not isinstance(method.score, WeightedVoices):
        raise UserError(f"voice_weights is given, and {type(method.score).__name__} weighs no voices; leave it out")
    for name in weights:
        if name not in numbers:
            raise UserError(f"voice_weights: there is no voice {name!r}. {nearest(name, numbers)}")
        if not math.isfinite(weights[name]):
            raise UserError(f"voice_weights: the weight of {name!r} is {weights[name]}; give a finite number")
    if not any(weights.values()):
        raise UserError("voice_weights: all weights are 0, and so every reward would be; give one that is not")
    weighting = tuple(float(weights.get(name, 0.0)) for name in sorted(numbers, key=lambda name: numbers[name]))
    return replace(method, score=replace(method.score, weighting=weighting))
