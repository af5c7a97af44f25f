"""Rewards that say how sure they are."""

from __future__ import annotations

from mmpo.methods.entry import Entry
from mmpo.objectives import Logistic
from mmpo.regularizers import SampledLogistic, SigmaLevel
from mmpo.scores import GaussianReward
from mmpo.targets import Votes
from mmpo.types import Method


def pearl(prior: float = 0.0, sampled: float = 1.0, pull: float = 0.01, level: float = 1.0) -> Method:
    """A reward model that gives each response a mean and a spread, and is priced by both.

    The labels may be soft, above all those of ``mmpo build transfer``, for which it was made. ``sampled`` weighs the
    price of rewards drawn from N(mu, sigma^2), and ``pull`` holds sigma near ``level``. Take it to repeat the paper.
    Leave it where sigma should tell which labels are noisy: the price of drawn rewards lowers sigma whatever the label,
    and ``MarginalLogistic`` in its place does not. Relations: sigma -> 0 is (1 + sampled) times ``soft_bradley_terry``.
    """
    noisy = ((sampled, SampledLogistic()), (pull, SigmaLevel(level)))
    return Method(Votes(prior), GaussianReward(), Logistic(), noisy)


ENTRIES = (
    Entry(
        pearl,
        "PEARL: Zero-shot Cross-task Preference Alignment and Robust Reward Learning for Robotic Manipulation",
        "2306.03615",
        page=49,
        values="pull 0.01, level 1",
    ),
)
