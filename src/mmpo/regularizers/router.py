"""Terms of the weights that a prompt gives the heads of a reward model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.special import entr

from mmpo.errors import UserError
from mmpo.matrix import mean_weight
from mmpo.scores.groups import ROUTER
from mmpo.types import Evidence, Method, Reading, Regularizer


@dataclass(frozen=True)
class RouterEntropy(Regularizer):
    """Keeps all heads in use: R = sum_k f_k(x) log f_k(x), the negative entropy of the router's weights.

    The load balance of MiCRo, arXiv 2505.24846. Its least value is -log K, where all heads count alike; one head has 0.
    It is of each prompt, so a heavy coefficient also keeps the router from telling prompts apart.
    """

    @property
    def equation(self) -> str:
        return "sum_k f_k(x) log f_k(x)"

    def check(self, method: Method) -> None:
        if ROUTER not in method.on_prompt():
            raise UserError("RouterEntropy needs a score whose prompts weigh its heads, such as RoutedMixture")

    def __call__(self, p: Tensor, evidence: Evidence, reading: Reading) -> Tensor:
        return -mean_weight(p) * entr(reading.of_prompt[ROUTER].softmax(-1)).sum(-1)
