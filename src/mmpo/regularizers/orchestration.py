"""What a prompt's weights of several attributes are learned from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.matrix import mean_weight
from mmpo.regularizers.imitation import best
from mmpo.scores import RoutedVoices
from mmpo.scores.groups import ROUTER
from mmpo.types import Evidence, Method, Reading, Regularizer


@dataclass(frozen=True)
class Orchestration(Regularizer):
    """A prompt weighs the attributes in which its preferred response is good: R = KL(w* || g(x)), w* = softmax of that
    response's grades over ``tau``.

    Preference Orchestrator, arXiv 2511.10656 (the direction of KL and tau are not printed in its abstract; this is the
    one whose optimum is the mean of w*). Grades count as they stand; the paper brings each attribute to one scale over
    the data set, which is ``shape: {rescale: zscore}`` of a recipe. Of several best responses the mean counts; an
    attribute in which none of them is graded is left out of both w* and g.

    Limits: w* does not change with a number added to all grades of a response; tau -> infinity has all attributes
    alike, tau -> 0 the best one alone; one attribute has weight 1 and costs nothing. A g that cannot tell prompts apart
    goes to the mean of w*, which is the best fixed weighting in this sense.
    """

    tau: float = 1.0
    needs = frozenset({"attributes", "voice_grades", "outputs"})

    def __post_init__(self) -> None:
        if self.tau <= 0:
            raise UserError(f"tau is {self.tau:g}; it must be positive")

    def check(self, method: Method) -> None:
        if not isinstance(method.score, RoutedVoices):
            raise UserError("Orchestration needs the score RoutedVoices, whose prompts weigh the attributes")

    @property
    def equation(self) -> str:
        return f"KL(w* || g(x)), w* = softmax_v(q_v(y_best) / {self.tau:g})"

    def __call__(self, p: Tensor, evidence: Evidence, reading: Reading) -> Tensor:
        logits = reading.of_prompt[ROUTER]
        grades = self.grades(p, evidence, reading, logits.shape[-1])
        graded = ~grades.isnan()
        rated = graded.any(-1)
        # A prompt without grades has nothing to learn, and no NaN either.
        graded = graded | ~rated[:, None]
        target = target_weights(torch.where(graded, grades.nan_to_num(), -torch.inf), self.tau)
        own = logits.masked_fill(~graded, -torch.inf).log_softmax(-1)
        apart = torch.special.xlogy(target, target) - target * own.masked_fill(~graded, 0.0)
        return mean_weight(p) * rated * apart.sum(-1)

    @staticmethod
    def grades(p: Tensor, evidence: Evidence, reading: Reading, attributes: int) -> Tensor:
        """The grades of the best response, [B, attributes], NaN where there is none."""
        each, who = evidence.by_voice()
        rows, data = len(who), len(evidence)
        given = best(p, reading).repeat(rows // data, 1) * ~each.quality.isnan()
        mean = (given * each.quality.nan_to_num()).sum(-1) / given.sum(-1)  # 0 / 0 where nothing is given
        # Number 0 is of attributes without a name, which have no output.
        out = mean.new_full((data, 1 + attributes), torch.nan)
        heard = ~mean.isnan()
        out[torch.arange(rows, device=who.device)[heard] % data, who[heard]] = mean[heard]
        return out[:, 1:]


def target_weights(grades: Tensor, tau: float) -> Tensor:
    """w* = softmax over attributes of grades / tau, [B, D] -> [B, D]; -inf leaves an attribute out."""
    return (grades / tau).softmax(-1)
