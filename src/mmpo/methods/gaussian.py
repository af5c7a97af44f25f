"""Rewards that say how sure they are."""

from __future__ import annotations

from mmpo.methods.entry import Entry
from mmpo.objectives import Logistic, Nothing
from mmpo.regularizers import MarginalLogistic, SampledLogistic, SigmaLevel
from mmpo.scores import GaussianReward
from mmpo.targets import Votes
from mmpo.types import Method


def pearl(prior: float = 0.0, sampled: float = 1.0, pull: float = 0.01, level: float = 1.0) -> Method:
    """A reward model that gives each response a mean and a spread, and is priced by both.

    The labels may be soft, above all those of ``mmpo build transfer``, for which it was made. ``sampled`` weighs the
    price of rewards drawn from N(mu, sigma^2), and ``pull`` holds sigma near ``level``. Take it to repeat the paper.
    Leave it where sigma should tell which labels are noisy, for the price of drawn rewards lowers sigma whatever the
    label: that is ``gaussian_likelihood``. Relations: sigma -> 0 is (1 + sampled) times ``soft_bradley_terry``.
    """
    noisy = ((sampled, SampledLogistic()), (pull, SigmaLevel(level)))
    return Method(Votes(prior), GaussianReward(), Logistic(), noisy)


def gaussian_likelihood(prior: float = 0.0, pull: float = 0.001, level: float = 1.0) -> Method:
    """A reward model that gives each response a mean and a spread, fitted by the likelihood of the labels.

    A label says that a draw of one reward was above a draw of the other. Where labels contradict the means, sigma grows
    and they count for less, so it also tells where labels are noisy. Take it where some kinds of prompts or answers are
    labelled worse than others. Leave it where all labels are alike: sigma is then one temperature, and the mean is that
    of ``soft_bradley_terry`` on another scale. Relations: ``pearl`` prices the draws themselves, and the means beside.
    """
    noisy = ((1.0, MarginalLogistic()), (pull, SigmaLevel(level)))
    return Method(Votes(prior), GaussianReward(), Nothing(), noisy)


_PEARL = "PEARL: Zero-shot Cross-task Preference Alignment and Robust Reward Learning for Robotic Manipulation"

ENTRIES = (
    Entry(
        pearl,
        _PEARL,
        "2306.03615",
        page=49,
        values="pull 0.01, level 1",
    ),
    Entry(
        gaussian_likelihood,
        f"{_PEARL}, with the likelihood in place of the price of draws",
        "2306.03615",
        page=49,
    ),
)
