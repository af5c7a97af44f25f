"""Rewards of people who differ."""

from __future__ import annotations

from mmpo.methods.entry import Entry
from mmpo.objectives import Hinge, Logistic
from mmpo.scores import IdealDirection, IdealPoint
from mmpo.targets import BradleyTerry, Hard
from mmpo.types import Method


def pal_a(prototypes: int = 2, dim: int = 16, temp: float = 1.0, power: float = 1.0) -> Method:
    """PAL-A: everybody has an ideal between a few prototypes, and likes best what is nearest to it.

    Take it where people who are named disagree by taste: a new one is placed from a few labels (``mmpo adapt``), and
    the prototypes show what tastes there are. Leave it where people agree, or have one or two labels each: one reward
    needs fewer. ``power`` 1 prices distances, as the authors' code, 2 their squares, as the paper. Relations: with one
    prototype it is one reward for all; ``mmpo_pal`` reads how much better an answer is; ``pal_b`` has ideals that
    depend on the prompt.
    """
    return Method(Hard(), IdealPoint(prototypes, dim, temp, power), Hinge(1.0))


def pal_b(prototypes: int = 2, dim: int = 16, temp: float = 1.0) -> Method:
    """PAL-B: what everybody wants is a direction that depends on the prompt, mixed from those of a few prototypes.

    Take it where a taste asks for other things from prompt to prompt, and the model is a decoder. Leave it for
    encoders, which it refuses, and where labels are few: it has more to learn than ``pal_a``. Relations: with one
    prototype it is one reward for all, the cosine with a direction; ``pal_a`` has the same ideals for all prompts.
    """
    return Method(Hard(), IdealDirection(prototypes, dim, temp), Logistic())


def mmpo_pal(gamma: float = 2.2, prototypes: int = 2, dim: int = 16, temp: float = 1.0, power: float = 2.0) -> Method:
    """Ideal points whose margins match the gaps that each person graded: r_v(i) - r_v(j) = gamma (q_i - q_j).

    Take it where named people graded or voted, and their probabilities should be believed. Leave it where only the
    winner is known. Relations: ``pal_a`` on graded targets and squared distances; with one prototype it is
    ``mmpo_reward`` on the distance to one ideal; ``mmpo_voices`` gives everybody an output, and shares nothing.
    """
    return Method(BradleyTerry(gamma), IdealPoint(prototypes, dim, temp, power), Logistic())


PAPER = ("PAL: Sample-Efficient Personalized Reward Modeling for Pluralistic Alignment", "2406.08469")

ENTRIES = (
    Entry(pal_a, *PAPER, page=7, values="2 prototypes, dim 512"),
    Entry(pal_b, *PAPER, page=7, values="2 prototypes, dim 512"),
    Entry(mmpo_pal, "PAL on the targets of Margin Matching Preference Optimization, arXiv:2410.03145", "2406.08469"),
)
