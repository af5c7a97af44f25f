"""Takes looks: a few held-out prompts, the answers people compared there, and what the policy writes itself."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mmpo.batch import Collator, Encoded, Example
from mmpo.data.texts import uniform, words
from mmpo.errors import UserError
from mmpo.evaluate.health.look import MEANS, Look
from mmpo.evaluate.scoring import Scorer
from mmpo.models.grid import to_grid
from mmpo.models.policy import response_logps
from mmpo.models.reference import AdapterOff
from mmpo.models.sample import Sample, Sampling, prompt_ids, sample
from mmpo.scores import Given
from mmpo.types import Datum, Reading, Score, Text

Gold: TypeAlias = Callable[[Sequence[Text], Sequence[Sequence[str]]], Sequence[Sequence[float]]]
"""Prompts [P] and the answers to each [P][n] -> a score for each answer."""

Unseen: TypeAlias = "list[list[list[int]]]"
"""Tokens of the answers that the start wrote, [P][n]."""


@dataclass(frozen=True)
class Aside:
    """A model that lies in main memory and is on the policy's device only while it is asked."""

    model: Any

    @classmethod
    def of(cls, model: Any) -> Aside:
        return cls(copy.deepcopy(model).requires_grad_(False).eval().cpu())

    @contextmanager
    def at_hand(self, policy: Any) -> Iterator[Any]:
        try:
            yield self.model.to(next(policy.parameters()).device)
        finally:
            self.model.cpu()


def start_of(model: Any) -> Any:
    """The model as it stands, to hold the policy against later: its adapter switched off, else a copy aside."""
    return AdapterOff() if hasattr(model, "disable_adapter") else Aside.of(model)


@dataclass(frozen=True)
class RewardModel:
    """A reward model as a gold scorer; loading it leaves random state outside as it was."""

    scorer: Scorer

    @classmethod
    def load(cls, name: str, trust_remote_code: bool = False) -> RewardModel:
        """Raises UserError where the folder or hub id holds no reward model."""
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            scorer = Scorer.load(name, trust_remote_code=trust_remote_code)
        if not isinstance(scorer.score, Given):
            raise UserError(f"health.gold: {name} is a policy; name a reward model that the training does not use")
        return cls(scorer)

    def __call__(self, prompts: Sequence[Text], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        rows = [uniform(prompt, row) for prompt, row in zip(prompts, answers, strict=True)]
        return self.scorer([Datum(str(n), prompt, row) for n, (prompt, row) in enumerate(rows)]).rewards


@dataclass(frozen=True)
class Probe:
    """How to look at a policy.

    Attributes:
        tokenizer, collator: those of the run.
        examples: the prompts with the answers that people compared.
        prompts: the same prompts as text.
        start: ``start.at_hand(policy)`` gives the model that the policy is held against.
        score: the method's, by which a saved model is read.
        sampling, samples: how answers are drawn, and how many to a prompt.
        gold: scores answers, where there is anything to hold them against.
        autocast: the precision of the run.
    """

    tokenizer: Any
    collator: Collator
    examples: Sequence[Example]
    prompts: Sequence[Text]
    start: Any
    score: Score
    sampling: Sampling
    samples: int = 1
    gold: Gold | None = None
    autocast: AbstractContextManager[Any] = field(default_factory=nullcontext)

    @property
    def measures(self) -> list[str]:
        """The names of the means that its looks have."""
        lacking = {"reward": not self._rewarding, "gold": self.gold is None}
        return [name for name in MEANS if not lacking.get(name)]

    @property
    def _rewarding(self) -> bool:
        """Whether log-probs are all that the implicit reward takes."""
        return self.score.plain.needs <= {"logps", "ref", "lengths"}

    def answers(self, policy: Any) -> list[list[Sample]]:
        """What the policy writes; every policy answers with the same random numbers."""
        with self.autocast:
            return sample(policy, self.tokenizer, self.prompts, self.sampling, self.samples)

    def unseen(self, policy: Any) -> Unseen:
        """Answers of the policy before training, to be followed through it."""
        return [[list(answer.tokens) for answer in row] for row in self.answers(policy)]

    @torch.no_grad()
    def look(self, policy: Any, step: int, unseen: Unseen) -> Look:
        """Look at the policy as it is, and leave it so; random state outside stays as it was."""
        began, was_training = time.monotonic(), policy.training
        policy.eval()
        best, worst = zip(*map(sides, self.examples), strict=True)
        rows, compared = range(len(self.examples)), self._logps(policy, self.examples)
        drawn = self.answers(policy)
        own = [self._answered(prompt, [a.tokens for a in row]) for prompt, row in zip(self.prompts, drawn, strict=True)]
        logps = self._logps(policy, own)
        with self.start.at_hand(policy) as model:
            before = self._logps(model, own)
        lengths = torch.tensor([[float(len(a.tokens)) for a in row] for row in drawn])
        known = [self._answered(prompt, row) for prompt, row in zip(self.prompts, unseen, strict=True)]
        policy.train(was_training)
        return Look(
            step=step,
            won=compared[rows, best].tolist(),
            lost=compared[rows, worst].tolist(),
            unseen=self._logps(policy, known).tolist(),
            preferred=[float(len(e.encoded.responses[i])) for e, i in zip(self.examples, best, strict=True)],
            kl=(logps - before).mean(-1).tolist(),
            tokens=lengths.mean(-1).tolist(),
            ended=[float(np.mean([a.ended for a in row])) for row in drawn],
            repeated=[float(np.mean([repetition(a.text) for a in row])) for row in drawn],
            reward=self._rewards(logps, before, lengths),
            gold=self._scored(drawn),
            seconds=time.monotonic() - began,
        )

    def _answered(self, prompt: Text, answers: Sequence[Sequence[int]]) -> Example:
        """A prompt with answers as drawn, about which nobody said anything."""
        encoded = Encoded("", tuple(prompt_ids(prompt, self.tokenizer)), tuple(map(tuple, answers)))
        return Example.of(Datum("", "", ("",) * len(answers)), encoded)

    def _logps(self, model: Any, examples: Sequence[Example]) -> Tensor:
        """[P, K] log-probs of the answers of each example."""
        found = torch.zeros(len(examples), max(len(e.encoded.responses) for e in examples))
        device, was_training = next(model.parameters()).device, model.training
        model.eval()
        for chunk in self.collator.chunks(examples):
            # Cached log-probs of a reference are not asked for.
            batch = self.collator.batch([replace(examples[n], ref_logps=None) for n in chunk]).to(device)
            with self.autocast:
                logps = to_grid(response_logps(model, batch.tokens), batch).float().cpu()
            found[chunk, : logps.shape[1]] = logps
        model.train(was_training)
        return found

    def _rewards(self, logps: Tensor, before: Tensor, lengths: Tensor) -> list[float]:
        """The implicit reward of the answers."""
        if not self._rewarding:
            return []
        reading = Reading(torch.ones_like(logps, dtype=torch.bool), logps, before, lengths)
        return [float(value) for value in self.score.plain.rewards(reading).mean(-1)]

    def _scored(self, drawn: Sequence[Sequence[Sample]]) -> list[float]:
        if self.gold is None:
            return []
        scores = self.gold(self.prompts, [[answer.text for answer in row] for row in drawn])
        return [float(np.mean(row)) for row in scores]


def sides(example: Example) -> tuple[int, int]:
    """The answers that people prefer most and least: those of the comparison that they are surest of."""
    said = example.evidence
    lead = (said.weight[0] != 0) * said.gap[0]
    flat = int(lead.flatten().argmax())
    return flat // lead.shape[-1], flat % lead.shape[-1]


def repetition(text: str, n: int = 4) -> float:
    """The share of the word n-grams of a text that stand in it before; 0 of a text too short for two."""
    tokens = words(text).split()
    grams = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    return 1 - len(grams) / grams.total() if grams else 0.0
