"""Preferences that are not a line: a beats b, b beats c, and c beats a."""

from __future__ import annotations

from mmpo.errors import UserError
from mmpo.methods.entry import Entry
from mmpo.objectives import Logistic, Nothing
from mmpo.regularizers import MeanMargin
from mmpo.scores import GatedSkew, LogRatio, SkewSymmetric
from mmpo.targets import BradleyTerry, Hard
from mmpo.types import Method


def _beta(tau: float) -> float:
    if tau <= 0:
        raise UserError(f"tau is {tau:g}; a temperature above 0 is needed")
    return 1 / tau


def gpm(dim: int = 2, tau: float = 0.1) -> Method:
    """A preference model: each response is a vector of ``dim`` numbers, and two of them are compared by a product that
    may run in a circle.

    Take it where preferences are cyclic, as ``mmpo evaluate`` tells, or mix criteria that no single number orders; a
    votes model of the same kind is ``target: Votes``. Leave it where a reward will do: a number for each response means
    the same from prompt to prompt, and margins do not. Relations: v = (r, 1) at tau = 1 is ``bradley_terry``; ``gpo``
    trains a policy on its mean margins.
    """
    return Method(Hard(), SkewSymmetric(_beta(tau), dim), Logistic())


def mmpo_gpm(gamma: float = 2.2, dim: int = 2, tau: float = 0.1) -> Method:
    """``gpm`` whose margin matches the gap of each pair, M_ij = gamma gap_ij, also where gaps or votes form no line.

    Take it where each pair has a share of votes or a stated gap, and pairs contradict each other. Leave it where grades
    belong to responses: their gaps are a line, and ``mmpo_reward`` has the same optimum in one number. Relations:
    ``gpm`` for gamma -> infinity; v = (r, 1) at tau = 1 is ``mmpo_reward``.
    """
    return Method(BradleyTerry(gamma), SkewSymmetric(_beta(tau), dim), Logistic())


def gpm_gated(dim: int = 4, tau: float = 0.1) -> Method:
    """``gpm`` in which the prompt says how much each plane of the vectors counts.

    Take it where another criterion decides for another kind of prompt. Leave it where prompts are alike or few; at
    dim = 2 there is one plane and nothing to weigh. Relations: ``gpm`` where the gate says the same of every plane.
    """
    return Method(Hard(), GatedSkew(_beta(tau), dim), Logistic())


def gpo(beta: float = 0.1) -> Method:
    """A policy whose log-ratio to its reference is 1 / beta times the mean margin of each response.

    The grades are scores: ``mmpo score`` of a ``gpm`` writes mean margins, and any other score does as well. The larger
    beta, the nearer the policy stays to its reference; the released code's beta of 0.001 goes with win rates from 0 to
    1. Take it for self-play: sample, score by a preference model, train a step, and again; on cyclic preferences the
    mean of the policies tends to the one that none beats. Leave it where only a few of many likely answers were
    sampled, or for pairs: the level of the log-ratio is asked for too, and two answers say little of it. Relations:
    ``copg`` asks for the differences alone; SPPO where the grades are win rates less 1/2.
    """
    return Method(Hard(), LogRatio(beta), Nothing(), ((1.0, MeanMargin(LogRatio(beta))),))


_GPM = "Beyond Bradley-Terry Models: A General Preference Model for Language Model Alignment"

ENTRIES = (
    Entry(gpm, _GPM, "2410.02197", page=58, values="tau 0.1; dim 6 for Gemma-2B, 4 for Llama-3.1-8B"),
    Entry(mmpo_gpm, f"{_GPM}, with the target of Margin Matching Preference Optimization", "2410.02197", page=58),
    Entry(gpm_gated, f"{_GPM}, its prompt gate", "2410.02197", page=58),
    Entry(gpo, f"{_GPM}, its policy objective", "2410.02197", page=58, values="beta 0.001 on win rates, 5 answers"),
)
