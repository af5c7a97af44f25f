"""Reward models: the score is the head's."""

from __future__ import annotations

from mmpo.objectives import GapLogistic, Logistic
from mmpo.scores import Given
from mmpo.targets import BradleyTerry, Hard, Votes
from mmpo.types import Method


def mmpo_reward(gamma: float = 2.2) -> Method:
    """A reward model whose margin matches the graded gap: r_i - r_j = gamma (q_i - q_j) at the optimum.

    Take it first where responses have grades, votes or probabilities: its sigmoid is a probability to believe.
    """
    return Method(BradleyTerry(gamma), Given(), Logistic())


def soft_bradley_terry(prior: float = 0.0) -> Method:
    """A reward model of the share of votes itself: r_i - r_j matches the log-odds of the votes.

    Take it where every pair has several votes or a stated probability. ``prior`` adds pseudo-votes to both sides.
    """
    return Method(Votes(prior), Given(), Logistic())


def bradley_terry() -> Method:
    """The usual reward model: the better response wins."""
    return Method(Hard(), Given(), Logistic())


def margin_bradley_terry(scale: float = 1.0) -> Method:
    """Llama 2's reward model: the winner must lead by ``scale`` times the graded gap.

    Peers read a column ``margin`` this way.
    """
    return Method(Hard(), Given(), GapLogistic(scale))
