"""Groups that disagree."""

from __future__ import annotations

from dataclasses import replace

from mmpo.errors import UserError
from mmpo.methods.entry import Entry
from mmpo.methods.policy import dpo, mmpo
from mmpo.objectives import Logistic
from mmpo.regularizers import RouterEntropy
from mmpo.scores import Hedged, OfGroup, RoutedMixture
from mmpo.scores.groups import Mixed
from mmpo.targets import BradleyTerry, Hard, Maximin, Worst
from mmpo.types import Method


def with_worst(method: Method, step: float = 0.1) -> Method:
    """Any pairwise method, with those voices counting most who fare worst."""
    return replace(method, target=Worst(method.target, method.objective, step))


def with_people(method: Method, eta: float = 1.0, fade: float = 0.1) -> Method:
    """A mixture of heads whose weights follow each person's own comparisons. Raises UserError for other methods."""
    if not isinstance(method.score, Mixed) or method.score.apart:
        raise UserError(f"{type(method.score).__name__} has no heads to weigh for a person; take micro")
    return replace(method, score=Hedged(method.score, method.target, method.objective, eta, fade))


def maxmin_reward(groups: int = 2, fade: float = 0.1) -> Method:
    """A reward for each of a few hidden groups of people, who are sorted into them while it learns.

    Take it where many named people compare and their tastes fall into camps: a single reward is the majority's. Each
    person needs a few comparisons. Leave it where people err rather than differ (``lcpo``), where they are blends
    rather than camps (``pal_a``), or are few with many comparisons each (``mmpo_voices``). Rows without a name are the
    whole population's. Groups part by chance at the start, so try another ``seed`` where they stay alike. Relations:
    one group is ``bradley_terry``; ``mmpo_groups`` reads grades; ``maxmin_mmpo`` trains a policy on what it finds.
    """
    return Method(Hard(), OfGroup(Hard(), Logistic(), groups, fade), Logistic())


def mmpo_groups(groups: int = 2, fade: float = 0.1, gamma: float = 2.2) -> Method:
    """A reward for each of a few hidden groups of people, each matched to the gaps that its people stated.

    Take it where named people grade or vote and their tastes fall into camps. Leave it where grades mean different
    things from person to person. Relations: one group is ``mmpo_reward``; ``maxmin_reward`` for gamma -> infinity.
    """
    said = BradleyTerry(gamma)
    return Method(said, OfGroup(said, Logistic(), groups, fade), Logistic())


def micro(heads: int = 4, entropy: float = 0.5) -> Method:
    """A mixture of rewards whose weights depend on the prompt, learned from comparisons without names.

    Take it where the prompt tells which taste applies. Leave it where one reward will do: the mixture of heads that
    agree is one of them. ``entropy`` keeps the heads in use; without it a few may win. Needs a decoder, whose prompt is
    read without the response.
    Relations: one head is ``bradley_terry``; ``micro_people`` knows who said what; ``maxmin_reward`` has camps.
    """
    return Method(Hard(), RoutedMixture(heads), Logistic(), ((entropy, RouterEntropy()),))


def micro_people(heads: int = 4, fade: float = 0.1, entropy: float = 0.5, eta: float = 1.0) -> Method:
    """The mixture of ``micro``, with weights that follow each named person's own comparisons.

    Take it where named people differ and the prompt matters too, or where new people are to be placed later by a few
    labels (``mmpo adapt``): the router is the prior, and each label of a person moves the weights towards the heads
    that foretold it. Leave it where people gave one or two labels each.
    Relations: eta = 0 is ``micro``; eta without end and an even router is ``maxmin_reward``.
    """
    return with_people(micro(heads, entropy), eta, fade)


def maxmin_dpo(step: float = 0.1, beta: float = 0.1) -> Method:
    """DPO that listens most to the voice that fares worst.

    Voices are people, or with ``voices: subsets`` or ``voices: attributes`` data sets or criteria, such as the rewards
    of hidden groups. Take it where no voice may be left behind. Leave it where the worst voice is the noisiest: it gets
    the floor too. Relations: step = 0 is ``dpo``, voice by voice; ``lcpo`` trusts those less who disagree;
    ``methods.groups.with_worst`` does the same to any pairwise method, of policies and reward models.
    """
    return with_worst(dpo(beta), step)


def maxmin_mmpo(step: float = 0.1, gamma: float = 2.2, beta: float = 0.1) -> Method:
    """Margin matching for the voice whose grades the policy serves worst: the maximin of several rewards.

    Take it to train one policy for groups that ``maxmin_reward`` found, or for several criteria: score draws of the
    reference by each, give the scores as attributes, and set ``voices: attributes``. Leave it where voices grade in
    different units, for it compares their utilities. Relations: step = 0 is ``mmpo`` on the mean grade; one voice is
    ``mmpo``; ``maxmin_dpo`` needs no grades.
    """
    return replace(mmpo(gamma, beta), target=Maximin(gamma, step, beta))


MAXMIN = "MaxMin-RLHF: Towards Equitable Alignment with Diverse Human Preferences"
MICRO = "MiCRo: Mixture Modeling and Context-aware Routing for Personalized Preference Learning"

ENTRIES = (
    Entry(maxmin_reward, MAXMIN, "2402.08925", page=38, values="groups 2"),
    Entry(mmpo_groups, MAXMIN, "2402.08925", page=38),
    Entry(micro, MICRO, "2505.24846", page=41, values="heads 10, entropy 0.5"),
    Entry(micro_people, MICRO, "2505.24846", page=41),
    Entry(maxmin_dpo, MAXMIN, "2402.08925", page=38),
    Entry(maxmin_mmpo, MAXMIN, "2402.08925", page=38),
)
