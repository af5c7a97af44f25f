"""Prices of whole lists. P is read for its order and its weights; ``Hard`` is the target that most of them mean.

Where papers sum over stages of a list the house takes their mean, as it does over pairs: K - 1 times less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmpo.errors import UserError
from mmpo.matrix import beats, listed, mean_weight, win_rate
from mmpo.types import Evidence, Method, Objective, nested


def log1p_sum_exp(x: Tensor) -> Tensor:
    """log(1 + sum exp x) over the last dimension; entries of -inf are left out."""
    return pad(x, (1, 0)).logsumexp(-1)


def choices(p: Tensor, x: Tensor) -> Tensor:
    """Mean over stages of log(1 + sum exp x) over the comparisons a stage wins, [B, S, N] x 2 -> [B].

    A stage has the mean weight of these comparisons (P + P^T where the mass is ``p``); one without any is none.
    """
    won = p > 0
    count = won.sum(-1)
    weight = p.sum(-1) / count.clamp_min(1)
    cost = weight * log1p_sum_exp(x.masked_fill(~won, -math.inf))
    return cost.sum(-1) / (count > 0).sum(-1).clamp_min(1)


def won(p: Tensor) -> Tensor:
    """The weight of each comparison in the entry of its winner, 0 elsewhere and for ties: [B, K, K] -> the same."""
    return (p + p.mT).where(beats(p), 0.0)


def shared(p: Tensor, m: Tensor, share: Tensor) -> Tensor:
    """-sum_i w_i log softmax(s)_i over the compared responses of a list, at its mean weight: P and M [B, K, K], shares
    w [B, K] that are 0 for the other responses -> [B]."""
    others = listed(p).unsqueeze(-2) & ~torch.eye(m.shape[-1], dtype=torch.bool, device=m.device)
    return mean_weight(p) * (share * log1p_sum_exp(-m.masked_fill(~others, math.inf))).sum(-1)


def odds_shares(p: Tensor) -> Tensor:
    """Shares w of the compared responses with w_i / w_b = P_ib / P_bi, b the best of them: P [B, K, K] -> [B, K].

    Against the best no share that counts is lost to the smallest number that P can hold.
    """
    there, known = listed(p), (p != 0) | (p.mT != 0)
    log = p.clamp_min(torch.finfo(p.dtype).tiny).log()
    odds = torch.where(known, log - log.mT, 0.0)
    level = (odds.sum(-1) / there.sum(-1, keepdim=True).clamp_min(1)).masked_fill(~there, -math.inf)
    best = level.argmax(-1)[:, None, None].expand(-1, p.shape[-1], 1)
    against = torch.where(
        known.gather(-1, best), odds.gather(-1, best), level.unsqueeze(-1) - level.amax(-1)[:, None, None]
    )
    return against.squeeze(-1).masked_fill(~there, torch.finfo(p.dtype).min).softmax(-1) * there


class Ordered(Objective):
    """A price that reads who is better and what a comparison weighs, and no more of P."""

    listwise = True

    def check(self, method: Method) -> None:
        for part in nested(method.target):
            if part.soft:
                raise UserError(
                    f"{type(self).__name__} reads only the order of responses, so {type(part).__name__} would do "
                    "nothing; take Hard, or a price that reads all of P (ListNet, Logistic)"
                )


@dataclass(frozen=True)
class PlackettLuce(Ordered):
    """Best of the rest, again and again: L = mean_i log(1 + sum_{j: i beats j} exp(-M_ij)).

    The likelihood of a ranking under Plackett and Luce, ListMLE (Xia et al., 2008); DPO's appendix A.3, arXiv
    2305.18290. Each response that beats any is a stage: it is chosen from itself and those it beats. Of two that tie
    neither was said to come first, so neither stands in the other's stage. Limits: K = 2 is ``Logistic``.
    """

    @property
    def equation(self) -> str:
        return "L = mean_i log(1 + sum_{j: P_ij > P_ji} exp(-M_ij))"

    def __call__(self, p: Tensor, m: Tensor, evidence: Evidence) -> Tensor:
        return choices(won(p), -m)


@dataclass(frozen=True)
class GapPlackettLuce(Ordered):
    """The same with graded gaps as inverse temperatures: L = mean_i log(1 + sum_{i beats j} exp(t_ij s_j - t_i s_i)).

    PRO, arXiv 2306.17492: t_ij = |q_i - q_j| and t_i is the largest of them, so that the best of a stage is pulled up
    by the widest gap, also where no M changes. s_i is read from M_ii, where ``AnchoredMeanLogProb`` puts it; under a
    score with M_ii = 0 the form is t_ij (s_j - s_i). The unit of the grades is a temperature: c times the grades is c
    times the score. Limits: K = 2 is -log sigmoid(t M); all gaps 1 is ``PlackettLuce``. Ties are left out (the paper's
    code counts a constant for them).
    """

    needs = frozenset({"grades"})

    @property
    def equation(self) -> str:
        return "L = mean_i log(1 + sum_{j: P_ij > P_ji} exp(t_ij s_j - t_i s_i)), t_ij = |q_i - q_j|, t_i = max_j t_ij"

    def __call__(self, p: Tensor, m: Tensor, evidence: Evidence) -> Tensor:
        mass = won(p)
        t = evidence.gap.abs().where(mass > 0, 0.0)
        own = m.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        return choices(mass, -t * m - (t.amax(-1, keepdim=True) - t) * own)


@dataclass(frozen=True)
class WorstPair(Ordered):
    """One price for all comparisons of a list, led by the worst: L = log(1 + sum_{i beats j} exp(-M_ij)).

    The log-sum-exp form of RankList, arXiv 2508.09826, derived here: prod (1 + e^d) >= 1 + sum e^d, so it is a lower
    bound of the sum of ``Logistic`` prices, and equal to it for a single comparison. Ties are left out.
    """

    @property
    def equation(self) -> str:
        return "L = log(1 + sum_{ij: P_ij > P_ji} exp(-M_ij))"

    def __call__(self, p: Tensor, m: Tensor, evidence: Evidence) -> Tensor:
        return choices(won(p).flatten(-2).unsqueeze(-2), -m.flatten(-2).unsqueeze(-2))


@dataclass(frozen=True)
class ListNet(Objective):
    """Cross-entropy of shares: L = -sum_i w_i log softmax(s)_i, w_i the response's share in all wins.

    ListNet's top-one form (Cao et al., 2007); the softmax loss of LiPO, arXiv 2402.01878. Shares are mean win
    probabilities, brought to sum 1. Its minimum stands where softmax(s) = w, so soft targets have a finite optimum:
    the policy's odds are those of the shares, not those of the single comparisons. All compared responses are one
    list, also where some two of them were never compared. Limits: K = 2 is ``Logistic``.
    """

    listwise = True

    @property
    def equation(self) -> str:
        return "L = sum_i w_i log sum_j exp(-M_ij), w_i = mean_j P_ij, normalised"

    def __call__(self, p: Tensor, m: Tensor, evidence: Evidence) -> Tensor:
        there = listed(p)
        share = win_rate(p) * there
        return shared(p, m, share / share.sum(-1, keepdim=True).clamp_min(torch.finfo(p.dtype).tiny))


@dataclass(frozen=True)
class ListOdds(Objective):
    """How far the model's shares are from those that have the odds of the comparisons: L = KL(w || softmax(s)).

    w_i / w_j = P_ij / P_ji, so under ``targets.BradleyTerry(gamma)`` w = softmax(gamma q). SteerLM 2.0, arXiv
    2406.08673: with q the log of an importance weight and s = log pi - log ref it is the paper's monitored distance,
    and its gradient that of the paper's update sum_i (w_i - b_i) (-log pi_i), b = softmax(s). At the optimum every
    M_ij = gamma (q_i - q_j), as under ``Logistic``; away from it a wrong response counts by its share of the list.
    Odds are those against the best response, the one whose mean log-odds are highest; for a response that was never
    compared with it, they are of these means, which is no longer exact. Votes that form no line have other odds between
    the rest, and those are not heard. Limits: K = 2 is ``Logistic`` less the entropy
    of P.
    Relations: ``ListNet`` has shares that are mean win probabilities, which are flatter.
    """

    listwise = True

    @property
    def equation(self) -> str:
        return "L = sum_i w_i (log w_i - log softmax(s)_i), w_i / w_j = P_ij / P_ji"

    def __call__(self, p: Tensor, m: Tensor, evidence: Evidence) -> Tensor:
        share = odds_shares(p)
        return shared(p, m, share) + mean_weight(p) * torch.xlogy(share, share).sum(-1)
