"""What the demo measures: the true utility of samples, their distance from the reference, agreement with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import PreTrainedTokenizerFast, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mmpo.data import load, merge
from mmpo.demo.reference import sample
from mmpo.demo.task import utility
from mmpo.evaluate import Comparisons, summarise
from mmpo.evaluate.scoring import Scorer
from mmpo.models.policy import response_logps

SAMPLING_SEED = 1


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: ArrayLike) -> Interval:
        """The mean of independent values [n] and its normal interval, 1.96 standard errors to each side."""
        array = np.asarray(values, float)
        mean, error = float(array.mean()), 1.96 * float(array.std(ddof=1)) / len(array) ** 0.5
        return cls(mean, mean - error, mean + error)

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.high - self.value:.2f}"


@dataclass(frozen=True)
class Point:
    """A policy at one moment: the true utility of its samples, and KL(policy || reference) in nats an answer."""

    epoch: float
    utility: Interval
    kl: Interval


@dataclass(frozen=True)
class Probe:
    """Draws a few answers to each held-out prompt from a policy and measures them.

    KL is estimated by the mean of log pi(y|x) - log ref(y|x) over the answers, which is unbiased. The intervals are
    over prompts. Every policy answers with the same random numbers.
    """

    reference: Any
    tokenizer: PreTrainedTokenizerFast
    prompts: Sequence[str]
    answers: int = 2

    @torch.no_grad()
    def __call__(self, policy: Any, epoch: float = 0.0) -> Point:
        prompts = [prompt for prompt in self.prompts for _ in range(self.answers)]
        drawn = sample(policy, self.tokenizer, prompts, SAMPLING_SEED)
        was_training = policy.training
        policy.eval()
        ratio = response_logps(policy, drawn.tokens) - response_logps(self.reference, drawn.tokens)
        policy.train(was_training)
        worth = [utility(prompt, text) for prompt, text in zip(prompts, drawn.texts, strict=True)]
        by_prompt = np.reshape([worth, ratio.tolist()], (2, -1, self.answers)).mean(-1)
        return Point(epoch, *map(Interval.of, by_prompt))


class Watch(TrainerCallback):
    """Measures the policy at the end of some epochs of its training."""

    def __init__(self, probe: Probe, epochs: Sequence[int]) -> None:
        self.probe, self.epochs = probe, epochs
        self.points: list[Point] = []

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **further: Any
    ) -> None:
        epoch = round(state.epoch or 0)
        if epoch in self.epochs:
            self.points.append(self.probe(further["model"], epoch))


@dataclass(frozen=True)
class Agreement:
    """A model's margins against the true probabilities, and against votes."""

    true: Comparisons
    voted: Comparisons

    @classmethod
    def of(cls, folder: Path, data: Path) -> Agreement:
        """Of the model that a run left in ``folder``, on the held-out pairs of the world in ``data``."""
        scorer = Scorer.load(str(folder))

        def against(name: str) -> Comparisons:
            scored = scorer(merge(load(str(data / f"{name}.jsonl")).data)[0])
            return Comparisons.from_data(scored.data, scored.rewards, scored.lengths)

        return cls(against("eval_truth"), against("eval_votes"))

    def as_dict(self) -> dict[str, Any]:
        return {"truth": summarise(self.true)["overall"], "votes": summarise(self.voted)["overall"]}
