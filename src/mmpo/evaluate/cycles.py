"""How far people's preferences are from a line: cycles of three, and what any scalar model must lose on them.

A scalar model gives each response one reward, and so an order. Where most people prefer a to b, b to c and c to a, no
order agrees with all three. Grades are a line by themselves, so only pairs that somebody compared count here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from mmpo.batch import evidence
from mmpo.data.gamma import sigmoid
from mmpo.data.shape import only_answers
from mmpo.evaluate.agreement import Floats, entropy, nll
from mmpo.evaluate.comparisons import people
from mmpo.evaluate.orders import fewest_against
from mmpo.evaluate.resample import ratio_interval
from mmpo.types import Datum

SIMULATED = 200
"""How often votes are drawn to see how many cycles they make by themselves."""

PRIOR = 1.0
"""Votes, half to each side, that are added to each comparison before a line is fitted to draw votes from; without them
the line would be as sure as few votes look."""

_AT_ONCE = 256
_CELLS = 1_000_000
_RIDGE = 1e-7
_STEPS = 100


@dataclass(frozen=True)
class Tournaments:
    """What people said of K responses to each of B prompts, pair by pair, [B, K, K] each.

    Attributes:
        p: the share of people for i over j, 1/2 where the pair was not compared.
        weight: symmetric weight of each comparison, 0 where there is none.
        votes: how many votes were cast on it, at least 1 where it was compared.
    """

    p: Floats
    weight: Floats
    votes: Floats

    def __len__(self) -> int:
        return len(self.p)

    @property
    def beats(self) -> Floats:
        """1 where most people prefer i to j, else 0; a tie up to rounding is undecided."""
        return ((self.p > 0.5 + 1e-6) & (self.weight > 0)).astype(float)


def cycles(data: Sequence[Datum], seed: int = 0) -> dict[str, Any] | None:
    """How cyclic preferences are, ready for JSON; None where no three responses were compared with each other.

    Returns ``n_prompts`` with a pair that somebody compared, ``n_comparisons`` (pairs), ``median_votes`` of a pair,
    ``n_triples``, three responses all of whose pairs have a majority, ``n_cyclic`` of them, and {value, low, high} of

        cyclic_share        n_cyclic / n_triples
        least_wrong         the least share of the decided pairs that any order of the responses contradicts, so that 1
                            minus it bounds the accuracy of scalar models; at most ``least_wrong_at_most``, which is
                            the same where ``exact`` (up to 9 responses to a prompt)
        least_excess_nll    how far the NLL of the best Bradley-Terry rewards stays above the entropy of the shares

    with 95% intervals of a bootstrap over prompts; and ``by_chance``: the share of cyclic triples that as many votes
    would show where people ``agree_on_a_line`` (drawn from the Bradley-Terry rewards that fit with ``PRIOR`` votes
    more; the mean of ``SIMULATED`` draws, and ``at_most`` in 19 of 20), and where each vote is a ``coin``.
    """
    told = list(tournaments(data))
    cyclic, decided = np.hstack([triples(one.beats) for one in told]) if told else np.zeros((2, 1))
    if not decided.sum():
        return None
    lost = np.concatenate([_lost(one) for one in told])
    votes = np.concatenate([one.votes[np.triu(one.weight) > 0] for one in told])
    wrong, at_most = (_ratio(lost[:, n], lost[:, 2], seed) for n in (0, 1))
    return {
        "n_prompts": len(lost),
        "n_comparisons": len(votes),
        "median_votes": float(np.median(votes)),
        "n_triples": int(decided.sum()),
        "n_cyclic": int(cyclic.sum()),
        "cyclic_share": _ratio(cyclic, decided, seed),
        "by_chance": _by_chance(told, seed),
        "least_wrong": wrong,
        "least_wrong_at_most": at_most,
        "exact": wrong["value"] == at_most["value"],
        "least_excess_nll": _ratio(lost[:, 3], lost[:, 4], seed),
    }


def _ratio(above: Floats, below: Floats, seed: int) -> dict[str, float | None]:
    """sum(above) / sum(below) over prompts with its interval, whose ends are null for one prompt."""
    value, low, high = ratio_interval(above, below, seed=seed)
    alone = (below > 0).sum() < 2
    return {"value": value, "low": None if alone else low, "high": None if alone else high}


def _by_chance(told: Sequence[Tournaments], seed: int) -> dict[str, float]:
    """The share of cyclic triples where as many votes are drawn from a line, and where each is a coin."""
    rng = np.random.default_rng(seed)
    sums = {name: np.zeros((SIMULATED, 2)) for name in ("line", "coin")}
    for one in tqdm(told, desc="drawing votes", unit="batch"):
        seen = one.votes + PRIOR * (one.votes > 0)
        share = (one.votes * one.p + PRIOR / 2 * (one.votes > 0)) / np.where(seen > 0, seen, 1)
        rewards = best_line(Tournaments(share, seen, seen))
        chance = {"line": sigmoid(rewards[:, :, None] - rewards[:, None]), "coin": np.full_like(one.p, 0.5)}
        for name, p in chance.items():
            sums[name] += np.stack([_voted(one, p, rng) for _ in range(SIMULATED)])
    line, coin = (each[:, 0] / np.maximum(each[:, 1], 1) for each in sums.values())
    return {
        "agree_on_a_line": float(line.mean()),
        "at_most": float(np.quantile(line, 0.95)),
        "coin": float(coin.mean()),
    }


def tournaments(data: Sequence[Datum]) -> Iterator[Tournaments]:
    """The data in which somebody compared a pair, those with as many compared responses together."""
    by_size: dict[int, list[tuple[Floats, Floats, Floats]]] = {}
    judged = [only_answers(datum) for datum in data if datum.judgements]
    for start in range(0, len(judged), _AT_ONCE):
        said = evidence(judged[start : start + _AT_ONCE])
        p, _ = people(said)
        votes = said.votes + said.votes.mT
        weight = torch.where((votes > 0) | ~said.stated.isnan(), said.weight, 0.0)
        share = torch.where(weight > 0, p / (p + p.mT), 0.5)
        votes = torch.where(weight > 0, votes.round().clamp_min(1), 0.0)
        for one in zip(*(x.double().numpy() for x in (share, weight, votes)), strict=True):
            among = np.flatnonzero(one[1].any(0))
            if len(among):
                share_of, weight_of, votes_of = (x[np.ix_(among, among)] for x in one)
                by_size.setdefault(len(among), []).append((share_of, weight_of, votes_of))
    for k, found in sorted(by_size.items()):
        step = max(1, _CELLS // (2 ** min(k, 9) * k * k))
        for start in range(0, len(found), step):
            yield Tournaments(*(np.stack(x) for x in zip(*found[start : start + step], strict=True)))


def triples(beats: Floats) -> tuple[Floats, Floats]:
    """How many triples run in a circle, and how many have a winner in each pair: [B, K, K] -> [B] each."""
    decided = beats + beats.transpose(0, 2, 1)

    def closed(edges: Floats) -> Floats:
        return np.asarray(((edges @ edges) * edges.transpose(0, 2, 1)).sum((1, 2)))

    return closed(beats) / 3, closed(decided) / 6


def _voted(one: Tournaments, p: Floats, rng: np.random.Generator) -> Floats:
    """Cyclic and decided triples over all prompts, [2], after as many votes as were cast, with these chances."""
    upper = np.triu(one.votes, 1)
    won = rng.binomial(upper.astype(int), p)
    lead = won - upper / 2
    beats = (lead > 0) + (lead < 0).transpose(0, 2, 1)
    return np.array([count.sum() for count in triples(beats.astype(float))])


def best_line(one: Tournaments) -> Floats:
    """Bradley-Terry rewards [B, K] of least NLL for each prompt, by Newton's method.

    Where an order explains all, no rewards are the best: they end where the NLL is within about 1e-5 of its limit.
    """
    b, k = one.p.shape[:2]
    rewards = np.zeros((b, k))
    for _ in range(_STEPS):
        said = sigmoid(rewards[:, :, None] - rewards[:, None])
        slope = (one.weight * (said - one.p)).sum(-1) + _RIDGE * rewards
        curve = one.weight * said * (1 - said)
        hessian = -curve
        hessian[:, range(k), range(k)] += curve.sum(-1) + _RIDGE
        step = np.linalg.solve(hessian, slope[..., None])[..., 0]
        rewards = _down(one, rewards, step)
        if np.abs(slope).max() < 1e-9:
            break
    return rewards


def _down(one: Tournaments, rewards: Floats, step: Floats) -> Floats:
    """A step that lowers the NLL of each prompt, halved where the whole one does not."""
    before, size = _ridged(one, rewards), np.ones((len(rewards), 1))
    for _ in range(20):
        worse = _ridged(one, rewards - size * step) > before
        if not worse.any():
            break
        size[worse] /= 2
    return np.where(worse[:, None], rewards, rewards - size * step)


def _ridged(one: Tournaments, rewards: Floats) -> Floats:
    return costs(one, rewards) + _RIDGE / 2 * (rewards**2).sum(-1)


def costs(one: Tournaments, rewards: Floats) -> Floats:
    """The weighted NLL of rewards [B, K] summed over the comparisons of each prompt, [B]."""
    price = one.weight * nll(one.p, rewards[:, :, None] - rewards[:, None])
    return np.asarray(price.sum((1, 2)) / 2)


def _lost(one: Tournaments) -> Floats:
    """For each prompt the weight that any order contradicts, at least and at most, and that of decided pairs; the NLL
    above the entropy, and the weight of all pairs: [B, 5]."""
    wins = one.weight * one.beats
    low, high = fewest_against(wins)
    excess = costs(one, best_line(one)) - (one.weight * entropy(one.p)).sum((1, 2)) / 2
    return np.stack([low, high, wins.sum((1, 2)), excess.clip(0), one.weight.sum((1, 2)) / 2], -1)
