"""A run that several processes share: who reads which prompts, what is divided among them and made whole again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.utils import strtobool

from mmpo.batch import Example
from mmpo.batch.deal import Deal
from mmpo.errors import UserError
from mmpo.models.divided import form_of, made_whole
from mmpo.models.quantized import is_quantized
from mmpo.run.lasting import LastingTrainer

_NO_FSDP = (
    "fsdp divides a model among several processes, each with an accelerator of its own; start them with accelerate "
    "launch or torchrun on such machines, or leave fsdp out"
)


class SharingTrainer(LastingTrainer):
    """A Trainer whose steps and evaluations are the same however many processes share them.

    Attributes:
        divided: whether each process holds a part of the weights (FSDP, DeepSpeed).
    """

    def __init__(self, model: Any, args: TrainingArguments, **further: Any) -> None:
        if args.train_sampling_strategy not in ("random", "sequential"):
            raise UserError(
                f"train_sampling_strategy is {args.train_sampling_strategy!r}, but the prompts of a step are dealt by "
                "their tokens anyway; take random or sequential"
            )
        if args.fsdp and args.world_size == 1:
            raise UserError(_NO_FSDP)
        # Before the Trainer divides it.
        form = form_of(model) if args.world_size > 1 and not is_quantized(model) else None
        super().__init__(model=model, args=args, **further)
        self.divided = bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)
        if self.divided and is_quantized(model):
            raise UserError(
                "a quantised base lies whole on every GPU, and FSDP and DeepSpeed would divide it; leave them out, or "
                "quantize"
            )
        self._form = form if self.divided else None
        if (args.fsdp or strtobool(os.environ.get("ACCELERATE_USE_FSDP", "false"))) and not self.is_fsdp_enabled:
            raise UserError(_NO_FSDP)

    def _get_train_sampler(self, train_dataset: Any = None) -> Deal:
        """Several processes share the prompts that one process would take for a step."""
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        return self._dealt(
            self.train_dataset if train_dataset is None else train_dataset,
            self._train_batch_size,
            parts=args.gradient_accumulation_steps,
            seed=None if args.train_sampling_strategy == "sequential" else seed,
            drop_last=args.dataloader_drop_last,
        )

    def _get_eval_sampler(self, eval_dataset: Any) -> Deal:
        return self._dealt(eval_dataset, self.args.eval_batch_size)

    def _dealt(self, examples: Sequence[Example], per_process: int, parts: int = 1, **how: Any) -> Deal:
        processes = self.args.world_size
        costs = getattr(self.data_collator, "costs", None)
        return Deal(
            # A collator of one's own need not know; all data then weigh the same.
            np.ones(len(examples), np.int64) if costs is None else costs(examples),
            per_process * parts * processes,
            processes=processes,
            process=self.args.process_index,
            parts=parts,
            **how,
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader = super().get_train_dataloader()
        shard: Any = getattr(loader, "batch_sampler", None)
        inner = getattr(shard, "batch_sampler", None)
        if isinstance(inner, Deal):
            # What accelerate puts round it for several processes has to pass the epoch on, too.
            shard.sampler = inner
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], int]:
        """The batches of a step, and how many prompts they hold on all processes."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        own = sum(len(batch) for inputs in samples for batch in inputs["batch"])
        return samples, int(self.accelerator.reduce(torch.tensor(own, device=self.args.device), "sum"))

    @contextmanager
    def _more_to_come(self, model: Any) -> Iterator[None]:
        state = self.accelerator.gradient_state
        was = state.sync_gradients
        state._set_sync_gradients(False)
        try:
            # Divided gradients travel at once: FSDP would else hold them whole on each process until the last part.
            with nullcontext() if self.divided else self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(was)

    def _as_many_everywhere(self, parts: list[dict[str, Any]], least: int = 0) -> list[dict[str, Any]]:
        """Where weights are gathered for every forward, all processes must run the model equally often.

        What is missing is a prompt that is read once more, and does not count.
        """
        most = max(least, len(parts))
        if self.divided:
            most = int(self.accelerator.gather(torch.tensor([most], device=self.args.device)).max())
        if most == len(parts):
            return parts
        again = parts[-1]["batch"] if parts else self.data_collator.batch([self.train_dataset[0]])
        return parts + [{"batch": again, "counts": False}] * (most - len(parts))

    def whole(self) -> Any:
        """The trained model with all its weights, on the process that saves. All processes must ask for it."""
        if self._form is None:
            return self.accelerator.unwrap_model(self.model)
        return made_whole(self._form, self.model_wrapped, self.accelerator)
