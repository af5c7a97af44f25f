"""Scores of models that compare two responses without giving either a reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmpo.errors import UserError
from mmpo.types import Reading, Score

GATE = "gate"
"""The head on the prompt that weighs the planes of ``GatedSkew``."""


@dataclass(frozen=True)
class SkewSymmetric(Score):
    """The skew-symmetric product of two embeddings, M_ij = beta sum_l (v_i,2l-1 v_j,2l - v_i,2l v_j,2l-1).

    The general preference model, arXiv 2410.02197, with beta = 1 / tau: the paper trains at tau = 0.1. It can say that
    a beats b, b beats c and c beats a. The ``dim`` outputs v [B, K, dim] are used as the model gives them: they are not
    normalised, in training as in scoring, so a model that was trained on vectors of length 1 is not read rightly. All
    vectors c times as long are margins c^2 times as large; one turn of all vectors in a plane changes none.

    Limits: v = (r, 1) is the difference of rewards, so dim = 2 holds every scalar model at beta = 1. There is no rank
    1: of one number alone the product v_i v_j - v_j v_i is 0. Raises UserError for a ``dim`` that is not even.
    """

    beta: float = 10.0
    dim: int = 2
    needs = frozenset({"outputs"})

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2:
            raise UserError(
                f"dim is {self.dim:g}; a skew-symmetric product has even rank, 2 or more (of one number alone it is "
                "always 0): take 2, or a scalar reward such as bradley_terry"
            )

    @property
    def equation(self) -> str:
        return f"M_ij = {self.beta:g} sum_l (v_i,2l-1 v_j,2l - v_i,2l v_j,2l-1), v(x, y) of {self.dim:g} numbers"

    def outputs(self, voices: int) -> int:
        return int(self.dim)

    def planes(self, reading: Reading) -> Tensor:
        """How much each plane counts: [B, dim / 2], or anything that this shape follows from."""
        return reading.require("outputs").new_ones(())

    def __call__(self, reading: Reading) -> Tensor:
        v = reading.require("outputs")
        odd, even = v[..., 0::2], v[..., 1::2]
        crossed = (odd * self.planes(reading)) @ even.mT
        return self.beta * (crossed - crossed.mT)

    def rewards(self, reading: Reading) -> Tensor:
        """[B, K]: the mean margin over the responses of the prompt, itself with 0 among them.

        Of margins that are differences of rewards it is the reward, less the mean of the prompt.
        """
        there = reading.mask.to(reading.require("outputs").dtype)
        return (self(reading) @ there.unsqueeze(-1)).squeeze(-1) / there.sum(-1, keepdim=True).clamp_min(1)


@dataclass(frozen=True)
class GatedSkew(SkewSymmetric):
    """The same with the prompt weighing its planes: M_ij = beta sum_l g_l(x) (v_i,2l-1 v_j,2l - v_i,2l v_j,2l-1).

    g = (dim / 2) softmax of a linear head at the end of the prompt, so that the weights have mean 1: the prompt gate of
    arXiv 2410.02197, which lets another criterion count for another kind of prompt. Limit: with dim = 2, or a head that
    says the same of every plane, it is ``SkewSymmetric``.
    """

    @property
    def equation(self) -> str:
        return (
            f"M_ij = {self.beta:g} sum_l g_l(x) (v_i,2l-1 v_j,2l - v_i,2l v_j,2l-1), v(x, y) of {self.dim:g} numbers, "
            f"g = {self.dim / 2:g} softmax of a head at the end of the prompt"
        )

    def on_prompt(self, voices: int) -> Mapping[str, int]:
        return {GATE: int(self.dim) // 2}

    def planes(self, reading: Reading) -> Tensor:
        said = reading.of_prompt[GATE]
        return (said.shape[-1] * torch.softmax(said, -1)).unsqueeze(-2)
