"""A world in which the utility of every answer is known: its prompts, its people, and what they leave as data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmpo.data import GammaFit, fit_gamma
from mmpo.data.scale import rescale
from mmpo.matrix import between, compared
from mmpo.types import Datum, Evidence, Judgement

GAMMA = 1.5
"""People prefer i to j with probability sigmoid(GAMMA (u_i - u_j)); utilities vary by 1 within a prompt."""

VOTES = 5
"""Votes on each comparison of a prompt that has any."""

CANDIDATES = 8
PROMPT, ANSWER, HIDDEN = 4, 8, 24
MIDDLE, POINTS = 5.5, 1.5
"""On a scale from 1 to 10 a middling answer has 5.5 points, and one of utility, 1.5 points more."""


@dataclass(frozen=True)
class Condition:
    """How people's feedback comes about.

    Attributes:
        name, about: for people.
        prompts: how many prompts are in the training data.
        shown: answers of each prompt that are graded and compared.
        raters: how many raters each answer's grade is the mean of, each of whom perceives utility through the noise
            that makes preferences Bradley-Terry and rounds it to whole points; 0 where grades are exact.
        flipped: share of the prompts whose grades stand in reverse.
        upvotes: grades are counts that grow exponentially with utility, instead of points.
        log1p: grades are read on a logarithmic scale.
        voted: prompts with votes beside their grades, VOTES on each comparison.
    """

    name: str
    about: str
    prompts: int = 400
    shown: int = 2
    raters: int = 0
    flipped: float = 0.0
    upvotes: bool = False
    log1p: bool = False
    voted: int = 100


@dataclass(frozen=True)
class World:
    """Prompts with all their candidates: features [N, K, D], true utility [N, K], the reference's log-probs [N, K]."""

    features: Tensor
    utility: Tensor
    reference: Tensor

    def part(self, where: slice) -> World:
        return World(self.features[where], self.utility[where], self.reference[where])

    @property
    def preference(self) -> Tensor:
        """[N, K, K] the true probability that people prefer i to j."""
        return torch.sigmoid(GAMMA * between(self.utility))

    def value(self, logps: Tensor) -> Tensor:
        """Expected utility [...] of policies with log-probs [..., N, K], above that of the reference."""
        return ((logps.exp() - self.reference.exp()) * self.utility).sum(-1).mean(-1)

    def drift(self, logps: Tensor) -> Tensor:
        """KL to the reference [...] of policies with log-probs [..., N, K], in nats."""
        return (logps.exp() * (logps - self.reference)).sum(-1).mean(-1)

    def best(self, strength: float) -> Tensor:
        """[N, K] log-probs of the policy with the highest utility at its KL: ref exp(strength u), normalised."""
        return (self.reference + strength * self.utility).log_softmax(-1)


def make_world(seed: int, prompts: int) -> World:
    """A random network as utility; the reference is a softmax of another, linear function of the answers."""
    rng = torch.Generator().manual_seed(seed)
    inner = torch.randn(PROMPT + ANSWER, HIDDEN, generator=rng) * 1.5 / (PROMPT + ANSWER) ** 0.5
    outer = torch.randn(HIDDEN, generator=rng)
    habit = torch.randn(ANSWER, generator=rng) / ANSWER**0.5
    question = torch.randn(prompts, 1, PROMPT, generator=rng).expand(-1, CANDIDATES, -1)
    answers = torch.randn(prompts, CANDIDATES, ANSWER, generator=rng)
    features = torch.cat([question, answers], -1)
    raw = torch.tanh(features @ inner) @ outer
    centred = raw - raw.mean(-1, keepdim=True)
    return World(features, centred / centred.std(), (answers @ habit).log_softmax(-1))


@dataclass(frozen=True)
class Feedback:
    """Training data: which candidates were shown [N, k], their grades [N, k], those of each rater [R, N, k], and
    the share of votes for i over j on the first few prompts, [voted, k, k]."""

    shown: Tensor
    grades: Tensor
    by_rater: Tensor
    votes: Tensor

    def data(self, *, votes: bool = True, raters: bool = True) -> list[Datum]:
        """The same as rows that a user would have, with or without votes and the grades of single raters."""
        rows = []
        for n, grades in enumerate(self.grades.tolist()):
            named = {f"rater {r}": tuple(line) for r, line in enumerate(self.by_rater[:, n].tolist())}
            rows.append(
                Datum(
                    str(n),
                    str(n),
                    tuple(map(str, range(len(grades)))),
                    grades=tuple(grades),
                    judgements=_judgements(self.votes[n], VOTES) if votes and n < len(self.votes) else (),
                    annotator_grades=named if raters else {},
                )
            )
        return rows


def _judgements(p: Tensor, count: float) -> tuple[Judgement, ...]:
    k = len(p)
    return tuple(Judgement(i, j, p=float(p[i, j]), count=count) for i in range(k) for j in range(i + 1, k))


def give_feedback(world: World, condition: Condition, seed: int) -> Feedback:
    """What people say of answers that the reference gave: each prompt's are drawn from it, without repetition."""
    rng = torch.Generator().manual_seed(seed)
    shown = (world.reference + _gumbel(world.reference.shape, rng)).topk(condition.shown).indices
    utility = world.utility.gather(-1, shown)
    by_rater = _perceived(utility, condition, rng)
    grades = by_rater.mean(0) if condition.raters else _graded(utility, condition, rng)
    reverse = torch.rand(len(grades), 1, generator=rng) < condition.flipped
    grades = torch.where(reverse, grades.amax(-1, keepdim=True) + grades.amin(-1, keepdim=True) - grades, grades)
    p = torch.sigmoid(GAMMA * between(utility[: condition.voted]))
    drawn = torch.binomial(torch.full_like(p, float(VOTES)), p, generator=rng).triu(1) / VOTES
    votes = drawn + (1 - drawn.mT).tril(-1)
    found = Feedback(shown, grades, by_rater if condition.raters > 1 else by_rater[:0], votes)
    if not condition.log1p:
        return found
    rescaled = rescale(found.data(), "log1p")
    return Feedback(shown, torch.tensor([d.grades for d in rescaled]), found.by_rater[:0], votes)


def _perceived(utility: Tensor, condition: Condition, rng: torch.Generator) -> Tensor:
    """[R, N, k] whole points of each rater, who sees utility through Gumbel noise of scale 1 / GAMMA."""
    noise = _gumbel((condition.raters, *utility.shape), rng) / GAMMA
    return (MIDDLE + POINTS * (utility + noise)).round().clamp(1, 10)


def _graded(utility: Tensor, condition: Condition, rng: torch.Generator) -> Tensor:
    if not condition.upvotes:
        return MIDDLE + POINTS * utility
    return torch.poisson(3 * (1.5 * utility).exp(), generator=rng)


def _gumbel(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return -torch.empty(shape).exponential_(generator=rng).log()


def evidence_of(grades: Tensor) -> Evidence:
    """Grades [B, k] of answers that are all compared with each other, as a method reads them."""
    weight = compared(torch.ones_like(grades, dtype=torch.bool)).to(grades.dtype)
    nothing = torch.full_like(weight, torch.nan)
    return Evidence(torch.ones_like(grades, dtype=torch.bool), grades, nothing, torch.zeros_like(weight), weight)


def best_gamma(world: World, feedback: Feedback) -> GammaFit:
    """The gamma that brings sigmoid(gamma gap) closest to the true probabilities of the training comparisons."""
    utility = world.utility.gather(-1, feedback.shown)
    truth = torch.sigmoid(GAMMA * between(utility))
    rows = feedback.data(votes=False, raters=False)
    told = [replace(d, judgements=_judgements(p, 1.0)) for d, p in zip(rows, truth, strict=True)]
    return fit_gamma(told, draws=2)
