"""Scores that place people among a few prototypes, each of them a mixture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mmpo.errors import UserError
from mmpo.types import Reading, Score

PEOPLE = "people"
"""The table of voices with the logits of everybody's weights."""

INITIAL_SCALE = 1 / 0.07
MOST_SCALE = 100.0
"""The factor of a cosine at the start, and at most, as in CLIP."""


def with_anybody(own: Tensor) -> Tensor:
    """What each voice has, [voices, ...], with that of anybody in row 0: the mean over the voices with a name.

    It is what an unseen person is given before the first label. Where nobody has a name, row 0 stays: all are one.
    """
    return torch.cat([own[1:].mean(0, keepdim=True), own[1:]]) if len(own) > 1 else own


def of_voice(table: Tensor, who: Tensor | None) -> Tensor:
    """The rows of a table of voices that belong to these [B], or to anybody: [voices, ...] -> [B or 1, ...]."""
    return table[:1] if who is None else table[who]


def person_weights(table: Tensor, who: Tensor | None, temp: float = 1.0) -> Tensor:
    """Logits [voices, K] -> convex weights [B, K] of each row's voice, softmax(logits / temp).

    Anybody, number 0 or who = None, has the mean weights of the voices with a name (``with_anybody``). Where nobody is
    told apart it is one row, [1, K], for all.
    """
    return of_voice(with_anybody(torch.softmax(table / temp, -1)), who)


@dataclass(frozen=True)
class Mixture(Score):
    """People with tastes of their own: each is a convex mixture w = softmax(W_v / temp) of prototypes that all share.

    PAL, arXiv 2406.08469.

    Attributes:
        prototypes: K, how many there are.
        dim: D, dimensions of the space of responses and ideals: outputs of the model.
        temp: temperature of the softmax; lower is nearer to one prototype for each person.
    """

    prototypes: int = 2
    dim: int = 16
    temp: float = 1.0
    apart = True
    needs = frozenset({"outputs", "annotators"})
    facet = "prototype"

    def __post_init__(self) -> None:
        if not self.temp > 0:
            raise UserError(f"temp is {self.temp:g}; weights need a temperature above 0")

    @property
    def mixing(self) -> str:
        """The weights, as a part of the equation."""
        return f"w = softmax(W_v{'' if self.temp == 1 else f' / {self.temp:g}'})"

    def outputs(self, voices: int) -> int:
        return self.dim

    def tables(self, voices: int) -> dict[str, tuple[int, ...]]:
        return {PEOPLE: (voices, self.prototypes)}

    def weights(self, reading: Reading) -> Tensor:
        """[B, K] or, for anybody, [1, K]."""
        return person_weights(reading.tables[PEOPLE], reading.who, self.temp)

    def near(self, outputs: Tensor, ideal: Tensor, reading: Reading) -> Tensor:
        """The reward of outputs [B, K, D] for somebody whose ideal is [B or 1, D]."""
        raise NotImplementedError

    def ideals(self, reading: Reading) -> Tensor:
        """The prototypes, [B or 1, K, D]."""
        raise NotImplementedError

    def rewards(self, reading: Reading) -> Tensor:
        ideal = (self.weights(reading)[..., None] * self.ideals(reading)).sum(1)
        return self.near(reading.require("outputs"), ideal, reading)

    def facets(self, reading: Reading) -> Tensor:
        """The reward for somebody who is one prototype alone, [B, K, prototypes]."""
        outputs, ideals = reading.require("outputs"), self.ideals(reading)
        return torch.stack([self.near(outputs, ideal, reading) for ideal in ideals.unbind(1)], -1)


@dataclass(frozen=True)
class IdealPoint(Mixture):
    """The nearer to my ideal the better: s = -||o(x, y) - a||^power, a = w P.

    PAL-A, arXiv 2406.08469: the outputs o [D] of a response and the prototypes P [K, D] are points of one space, and
    the ideal a of a person lies in the hull of the prototypes. The authors' code takes the distance (power 1), the
    paper its square (power 2), by which M is linear in the two points: M_ij = ||o_j||^2 - ||o_i||^2 + 2 a (o_i - o_j).
    The space is that of the model's linear head, where the authors have two layers.

    Limits: one prototype is one reward for all. With D = 1, power 1 and a prototype beyond all outputs M is that of a
    scalar head. Turning and moving outputs and prototypes alike changes nothing. Relations: ``IdealDirection`` has
    prototypes that depend on the prompt; ``PerVoice`` shares nothing between voices but the model.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.power > 0:
            raise UserError(f"power is {self.power:g}; take 1 for the distance or 2 for its square")

    @property
    def equation(self) -> str:
        power = "" if self.power == 1 else f"^{self.power:g}"
        points = f"{self.prototypes} prototypes P in {self.dim} dimensions"
        return f"M_ij = s_i - s_j, s = -||o(x, y) - w P||{power}, {self.mixing}, {points}"

    def tables(self, voices: int) -> dict[str, tuple[int, ...]]:
        return {**super().tables(voices), "prototypes": (self.prototypes, self.dim)}

    def ideals(self, reading: Reading) -> Tensor:
        return reading.tables["prototypes"][None]

    def near(self, outputs: Tensor, ideal: Tensor, reading: Reading) -> Tensor:
        return -(torch.linalg.vector_norm(outputs - ideal[:, None], dim=-1) ** self.power)


@dataclass(frozen=True)
class IdealDirection(Mixture):
    """The closer to the direction that I want for this prompt the better: s = c cos(o(x, y), z), z = sum_k w_k g_k(x).

    PAL-B, arXiv 2406.08469: each prototype is a head g_k on the prompt. The factor c is learned; it begins at
    1 / 0.07 and stays below 100, as in CLIP (arXiv 2103.00020). Needs a decoder that is read on packed rows.

    Limits: one prototype is one reward for all. Relations: ``IdealPoint`` has the same prototypes for all prompts.
    """

    @property
    def equation(self) -> str:
        heads = f"{self.prototypes} heads g_k on the prompt, of {self.dim} dimensions"
        return f"M_ij = s_i - s_j, s = c cos(o(x, y), sum_k w_k g_k(x)), {self.mixing}, {heads}"

    def tables(self, voices: int) -> dict[str, tuple[int, ...]]:
        return {**super().tables(voices), "log_scale": ()}

    def on_prompt(self, voices: int) -> dict[str, int]:
        return {"prototypes": self.prototypes * self.dim}

    def ideals(self, reading: Reading) -> Tensor:
        return reading.of_prompt["prototypes"].unflatten(-1, (self.prototypes, self.dim))

    def near(self, outputs: Tensor, ideal: Tensor, reading: Reading) -> Tensor:
        grown = reading.tables["log_scale"] + math.log(INITIAL_SCALE)
        # The gradient passes, or a factor that once reached its most would never leave it.
        log_scale = grown - torch.relu(grown - math.log(MOST_SCALE)).detach()
        return log_scale.exp() * cosine_similarity(outputs, ideal[:, None], dim=-1)
