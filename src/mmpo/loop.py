"""The loop: one subclass of transformers.Trainer, and it does not know which method it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from mmpo.batch import Collator, Example
from mmpo.errors import UserError
from mmpo.evaluate.running import Tally
from mmpo.types import Batch, Method, Outcome, Reader


class GradedTrainer(transformers.Trainer):
    """transformers.Trainer on graded feedback. ``per_device_train_batch_size`` counts prompts.

    Args:
        model: the policy or the reward model.
        method: what to optimise; any Method whose needs the reader meets.
        reader: asks the model what it thinks of a batch.
        tokenizer: pads the batches and is saved with the model.
        further arguments: those of transformers.Trainer; data sets are sequences of Example.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        method: Method,
        reader: Reader,
        tokenizer: Any,
        train_dataset: Sequence[Example] | None = None,
        eval_dataset: Sequence[Example] | dict[str, Sequence[Example]] | None = None,
        **further: Any,
    ) -> None:
        if args.label_smoothing_factor:
            raise UserError("label_smoothing_factor has no effect here; take method cdpo, whose eps smooths labels")
        super().__init__(
            model=model,
            args=args,
            data_collator=Collator.of(tokenizer),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            **further,
        )
        self.method, self.reader = method, reader
        self.tallies = {"train": Tally(), "eval": Tally()}
        # The loss is already a mean over prompts; the Trainer divides it by the accumulation steps.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outcome = self.outcome(model, inputs["batch"])
        return (outcome.loss, outcome) if return_outputs else outcome.loss

    def outcome(self, model: Any, batch: Batch) -> Outcome:
        """The method's verdict on a batch, tallied for the log."""
        # The Trainer casts the policy alone; policy and reference must read in the same precision.
        with self.accelerator.autocast():
            reading = self.reader(model, batch)
        outcome = self.method(batch.evidence, reading)
        self.tallies["train" if model.training else "eval"].add(outcome, reading)
        return outcome

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, None, None]:
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.outcome(model, self._prepare_inputs(inputs)["batch"]).loss, None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        self.tallies["eval"] = Tally()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        means = self.tallies["eval"].flush(self._across)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            means = self.tallies["train"].flush(self._across)
            means.pop("loss", None)
            logs = {**logs, **means}
        super().log(logs, start_time)

    def _across(self, totals: torch.Tensor) -> torch.Tensor:
        """The sum over processes."""
        if self.accelerator.num_processes == 1:
            return totals
        return self.accelerator.reduce(totals.to(self.accelerator.device), "sum").cpu()
