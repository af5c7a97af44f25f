"""Several data sets or objectives at once, and how much each counts."""

from __future__ import annotations

from mmpo.methods.entry import Entry
from mmpo.objectives import Logistic, Nothing
from mmpo.regularizers import Orchestration, Regression
from mmpo.scores import Given, RoutedVoices
from mmpo.targets import BradleyTerry, Hard, MinNorm
from mmpo.types import Method


def more(momentum: float = 0.99, level: float = 0.0) -> Method:
    """A reward model of several data sets, which count so that none is unlearned for another.

    Data sets are the subsets that rows name, or several sources of a recipe. The directions of their gradients at the
    head are weighed so that their sum is the shortest, which is what they share. ``level`` 1 evens out the sizes of
    their losses as well; 0 is the paper's. Take it where three or more data sets differ in what they prefer and the
    shared taste is wanted. Leave it where one of them is what you care for, and where many agree and few differ: the
    few then count as much as the many. Relations: with ``level`` 0 and one data set or two, which always count alike,
    it is ``bradley_terry``; ``mmpo_more`` reads grades.
    """
    return Method(MinNorm(Hard(), momentum=momentum, level=level), Given(), Logistic())


def mmpo_more(gamma: float = 2.2, momentum: float = 0.99, level: float = 0.0) -> Method:
    """The reward model of several data sets with margins that match the graded gap.

    Take it where several data sets have grades, votes or probabilities; on one scale, since one ``gamma`` serves all.
    Leave it where ``more`` is left. Relations: ``mmpo_reward`` with one data set, ``more`` for gamma -> infinity.
    """
    return Method(MinNorm(BradleyTerry(gamma), momentum=momentum, level=level), Given(), Logistic())


def orchestrator(tau: float = 1.0) -> Method:
    """A reward of several attributes that weighs them by the prompt.

    It predicts the grades of each attribute, and from the prompt alone in which of them the preferred response will
    be good: those count. Needs graded attributes and, to say which response is preferred, a grade, votes or ranks
    beside; bring attributes to one scale with ``shape: {rescale: zscore}``. Take it where what matters differs from
    prompt to prompt, such as safety here and correctness there. Leave it where one weighting serves all
    (``helpsteer2``), and for encoders, which it refuses. It learns what preferred responses are good at, not what made
    them preferred, which is what ``mmpo_orchestrator`` learns. ``voice_weights`` in the recipe put fixed weights in
    place of the prompt's. Relations: with one attribute it is ``helpsteer2``; not ``pro``, which is Preference Ranking
    Optimization.
    """
    return Method(Hard(), RoutedVoices(), Nothing(), ((1.0, Regression()), (1.0, Orchestration(tau))))


def mmpo_orchestrator(gamma: float = 2.2) -> Method:
    """A reward of several attributes that weighs them by the prompt so that its margins match the graded gap.

    It predicts the grades of each attribute, and weighs them for each prompt so that their sum explains the overall
    grades, votes or ranks. Take it where both are there and what matters differs from prompt to prompt. Leave it where
    one weighting serves all, and for encoders, which it refuses. Bring attributes and grades to one scale with
    ``shape: {rescale: zscore}``. Relations: with one attribute it is ``helpsteer2`` and ``mmpo_reward`` at once;
    ``orchestrator`` takes its weights from the preferred response alone.
    """
    return Method(BradleyTerry(gamma), RoutedVoices(), Logistic(), ((1.0, Regression()),))


ENTRIES = (
    Entry(
        more,
        "On Diversified Preferences of Large Language Model Alignment",
        "2312.07401",
        page=23,
        values="momentum 0.99; learning rate 1e-6, one epoch, 40,000 pairs of each of five data sets",
    ),
    Entry(
        mmpo_more,
        "Margin Matching Preference Optimization, with the weights of On Diversified Preferences",
        "2312.07401",
    ),
    Entry(
        orchestrator,
        "Preference Orchestrator: Prompt-Aware Multi-Objective Alignment for Large Language Models",
        "2511.10656",
        page=33,
        values="tau is not printed in the abstract",
    ),
    Entry(
        mmpo_orchestrator,
        "Margin Matching Preference Optimization, of attributes that the prompt weighs",
        "2410.03145",
        page=0,
    ),
)
