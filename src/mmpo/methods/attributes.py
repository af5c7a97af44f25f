"""Reward models of several attributes, people or data sets at once."""

from __future__ import annotations

from mmpo.methods.entry import Entry
from mmpo.objectives import Logistic
from mmpo.scores import PerVoice
from mmpo.targets import BradleyTerry
from mmpo.types import Method


def mmpo_voices(gamma: float = 2.2) -> Method:
    """A reward for each attribute (or person, or data set), each matched to the gaps that it was graded with.

    Take it where responses were graded on several attributes and their trade-off should stay open: a saved model gives
    all of them, and any weighting is chosen later. Leave it where there is one grade, or where voices have few
    comparisons each and agree. Relations: with one voice it is ``mmpo_reward``.
    """
    return Method(BradleyTerry(gamma), PerVoice(), Logistic())


ENTRIES = (
    Entry(mmpo_voices, "Margin Matching Preference Optimization, a reward for each voice", "2410.03145", page=0),
)
