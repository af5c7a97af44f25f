"""Early stopping on any number of an evaluation, with names that are checked before anything is trained."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from mmpo.errors import UserError, nearest

LOWER = (
    "loss",
    "health/drift/per_token",
    "health/length/excess",
    "health/ranking/gap",
    "health/pull/given_up",
    "health/ece",
    "health/answers/kl",
    "health/answers/repeated",
)
"""Metrics of which less is better."""

HIGHER = (
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "health/drift/chosen",
    "health/ranking/accuracy",
    "health/ranking/per_token",
    "health/answers/gold",
    "health/answers/ended",
)
"""Metrics of which more is better."""


class Patience(EarlyStoppingCallback):
    """transformers' early stopping, which keeps its count when a run goes on from a checkpoint."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **further: Any
    ) -> None:
        kept = (state.stateful_callbacks or {}).setdefault(type(self).__name__, self.state())
        self.early_stopping_patience_counter = kept["attributes"]["early_stopping_patience_counter"]
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            # Killed between the stop and the end.
            control.should_training_stop = True


def patience(args: TrainingArguments, evaluations: int, threshold: float = 0.0) -> Patience:
    """Stops a run after so many evaluations without a gain of more than ``threshold``.

    The metric is ``metric_for_best_model``, by default the loss. Raises UserError where nothing is evaluated.
    """
    if args.eval_strategy == IntervalStrategy.NO:
        raise UserError("early_stopping_patience counts evaluations; add eval_data and eval_strategy: steps or epoch")
    if args.metric_for_best_model is None:
        args.metric_for_best_model, args.greater_is_better = "loss", False
    return Patience(evaluations, threshold)


def check_metric(args: TrainingArguments, known: Collection[str], stated: bool) -> None:
    """Raise UserError where metric_for_best_model is no number of an evaluation, or nobody knows which way is better.

    Args:
        known: what an evaluation measures, without ``eval_``.
        stated: whether the user said ``greater_is_better``; else it is set here.
    """
    name = str(args.metric_for_best_model).removeprefix("eval_")
    if name not in known:
        raise UserError(
            f"metric_for_best_model: an evaluation has no {name!r}. {nearest(name, known)} It has: "
            f"{', '.join(sorted(known))}"
        )
    if stated:
        return
    if name not in LOWER + HIGHER:
        raise UserError(f"metric_for_best_model is {name!r}: say which way is better with greater_is_better")
    args.greater_is_better = name in HIGHER
