"""Several attributes: reward models with an output for each, and policies that are asked for some of each."""

from __future__ import annotations

from mmpo.methods.entry import Entry
from mmpo.objectives import GapWeighted, ListOdds, Logistic, Nothing
from mmpo.regularizers import Regression
from mmpo.scores import Given, LogRatio, PerVoice, WeightedVoices
from mmpo.targets import BradleyTerry, Hard
from mmpo.types import Method


def mmpo_voices(gamma: float = 2.2) -> Method:
    """A reward for each attribute (or person, or data set), each matched to the gaps that it was graded with.

    Take it where responses were graded on several attributes and their trade-off should stay open: a saved model gives
    all of them, and any weighting is chosen later. Leave it where there is one grade, or where voices have few
    comparisons each and agree. Relations: with one voice it is ``mmpo_reward``; ``helpsteer2`` fits the grades
    themselves.
    """
    return Method(BradleyTerry(gamma), PerVoice(), Logistic())


def helpsteer2() -> Method:
    """A reward model that predicts the grade of each attribute; its reward is their weighted sum.

    ``voice_weights`` in the recipe are the weights, such as the paper's 0.65 helpfulness, 0.8 correctness, 0.45
    coherence, 0.55 complexity and -0.4 verbosity; without them the reward is the mean. Take it where grades are on a
    scale that means the same from prompt to prompt, and the outputs should be read on it. Leave it where only the
    order within a prompt is to be trusted: the level of a prompt must be learned too. Relations: ``mmpo_voices``
    matches differences of the same grades.
    """
    return Method(Hard(), WeightedVoices(), Nothing(), ((1.0, Regression()),))


def scaled_bradley_terry() -> Method:
    """Bradley-Terry with each comparison counted as often as its gap is wide.

    Take it where people stated how much better a response is, as from 1 to 3, and strong statements are the reliable
    ones. The unit of the gaps scales the loss, so keep them near 1. Leave it where the sigmoid should be a
    probability. Relations: ``bradley_terry`` where all gaps are 1; ``margin_bradley_terry`` asks for a wider lead.
    """
    return Method(Hard(), Given(), GapWeighted(Logistic()))


def steerlm2(gamma: float = 1.0, beta: float = 1.0) -> Method:
    """The shares of a list under policy over reference become those that its grades give: SteerLM 2.0.

    The paper's grades are log-weights, log P(a|x,y) + log P(y|x) - log Q'(y|a,x), of responses that the reference Q'
    wrote for the attributes a in the prompt; gamma = beta = 1 then leads to P(y|a,x). Add any constant to the grades of
    a prompt. Take it where a policy should follow a stated wish and its distribution counts, not only its best answer.
    Leave it where lists are short draws of a broad policy: only their shares are learned. The paper divides each
    prompt's loss by the mean length of its responses, which here is for ``weight`` to do. Relations: ``mmpo`` at K = 2;
    it has the same optimum on longer lists.
    """
    return Method(BradleyTerry(gamma), LogRatio(beta), ListOdds())


_HELPSTEER2 = "HelpSteer2: Open-source dataset for training top-performing reward models"

ENTRIES = (
    Entry(mmpo_voices, "Margin Matching Preference Optimization, a reward for each voice", "2410.03145", page=0),
    Entry(helpsteer2, _HELPSTEER2, "2406.08673", page=25, values="lr 2e-6, 2 epochs"),
    Entry(
        scaled_bradley_terry,
        "HelpSteer2-Preference: Complementing Ratings with Preferences",
        "2410.01257",
        page=25,
        values="gaps 1 to 3",
    ),
    Entry(steerlm2, f"{_HELPSTEER2}, its SteerLM 2.0", "2406.08673", page=25, values="lr 6e-6, 800 steps of 128"),
)
