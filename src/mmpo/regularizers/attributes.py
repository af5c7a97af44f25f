"""Grades as they are: each output of a reward model is fitted to the grades of its voice."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mmpo.matrix import mean_weight
from mmpo.scores import WeightedVoices
from mmpo.types import Evidence, Reading, Regularizer, Score


@dataclass(frozen=True)
class Regression(Regularizer):
    """Squared error on all grades of a datum: R = mean over voices v and responses i with a grade of (o_v - q_vi)^2.

    HelpSteer2, arXiv 2406.08673, whose label -100 is a missing grade, NaN here: it has no error and no gradient. The
    paper's mean is over all grades of a batch, this one over those of a datum first, by the weight of its comparisons;
    a datum that nobody compared costs nothing. Grades without a name are those of anybody's view. Unlike a price of
    comparisons it fixes the level of the rewards too. Relations: ``of`` = ``Given`` with a scalar head.
    """

    of: Score = field(default_factory=WeightedVoices)

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"voice_grades"}

    @property
    def equation(self) -> str:
        return "mean over graded v, i of (o_v(x, y_i) - q_vi)^2"

    def __call__(self, p: Tensor, evidence: Evidence, reading: Reading) -> Tensor:
        each, who = evidence.by_voice()
        if reading.who is None:
            reading = replace(reading.repeat(len(who) // len(evidence)), who=who)
        # The grade of a response with a role, such as a degree, is no quality.
        graded = each.mask & ~each.quality.isnan() & ~sum(each.roles.values(), torch.zeros_like(each.mask))
        off = torch.where(graded, self.of.rewards(reading) - each.quality.nan_to_num(), 0.0).square()
        total, count = (x.view(-1, *evidence.mask.shape).sum((0, 2)) for x in (off, graded))
        return mean_weight(p) * total / count.clamp_min(1)
