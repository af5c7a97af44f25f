"""The loop: the one Trainer of the house, and it does not know which method it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.nn import ModuleDict, Parameter
from transformers import TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from mmpo.batch import Collator, Example
from mmpo.batch.collate import micro_batch_tokens
from mmpo.errors import UserError
from mmpo.evaluate.health.signs import signs, told
from mmpo.evaluate.running import Tally, Totals
from mmpo.models import packed
from mmpo.models.divided import divide_frozen
from mmpo.recipe.keys import check_arguments
from mmpo.recipe.partners import check_warmup
from mmpo.run.allocator import keep_freed_memory
from mmpo.run.sharing import SharingTrainer
from mmpo.run.state import MethodState
from mmpo.types import Batch, Evidence, Method, Outcome, Reader, Reading


class GradedTrainer(SharingTrainer):
    """The Trainer on graded feedback. ``per_device_train_batch_size`` counts prompts.

    A batch comes as micro-batches of a few thousand tokens. They are read and differentiated one after the other; the
    gradient is the mean over all prompts of the step, whatever process or micro-batch they came in.

    Args:
        model: the policy or the reward model.
        method: what to optimise; any Method whose needs the reader meets.
        reader: asks the model what it thinks of a batch.
        tokenizer: pads the batches and is saved with the model.
        voices: how many voices the method is to tell apart, the one without a name included.
        head_learning_rate: of what is learned beside the model; default: that of the model.
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
        data_collator: Collator | None = None,
        train_dataset: Sequence[Example] | None = None,
        eval_dataset: Sequence[Example] | dict[str, Sequence[Example]] | None = None,
        voices: int = 1,
        head_learning_rate: float | None = None,
        **further: Any,
    ) -> None:
        if args.n_gpu > 1:
            raise UserError(
                f"one process cannot train on {args.n_gpu} GPUs; start one on each with accelerate launch, or choose "
                "one with CUDA_VISIBLE_DEVICES=0"
            )
        check_arguments(args)
        if args.device.type == "cpu":
            keep_freed_memory()
        backend = args.torch_compile_backend
        if args.torch_compile and packed.compile_layers(model, backend, args.torch_compile_mode):
            # The layers are compiled already, each once for rows of any length; the Trainer must not do it again.
            args.torch_compile_backend = "no"
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator
            or Collator.of(tokenizer, micro_batch_tokens=micro_batch_tokens(args.device.type)),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            **further,
        )
        args.torch_compile_backend = backend
        self.method, self.reader = method, reader
        self.method_state = MethodState(method, getattr(reader, "heads", ModuleDict()), voices, args.device)
        self.head_learning_rate = head_learning_rate
        more = len(self.method_state.heads) or method.ahead or "peer" in method.needs
        if more and self.divided:
            raise UserError("this method trains more than the model, which FSDP and DeepSpeed cannot divide; use DDP")
        if method.ahead and (args.world_size > 1 or args.gradient_accumulation_steps > 1):
            raise UserError(
                "this method looks a step ahead, for which it must see the whole step at once; take one process and "
                "gradient_accumulation_steps: 1 (micro_batch_tokens bounds the memory)"
            )
        divide_frozen(reader, self.accelerator)
        self.further: list[Callable[[], dict[str, float]]] = []
        """Further measures of every evaluation; all processes ask them alike."""
        # compute_loss divides by the prompts of the whole step itself. Earlier releases of transformers ask the latter.
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = True

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of each micro-batch; gradients are exchanged with the last one."""
        # Gradients are exchanged in the backward pass, so that a process without a prompt of its own takes part too.
        parts = self._as_many_everywhere(self._parts(inputs), least=1)
        losses = []
        with self._ahead(model, parts):
            for n, part in enumerate(parts, start=1):
                with nullcontext() if n == len(parts) else self._more_to_come(model):
                    losses.append(super().training_step(model, part, num_items_in_batch))
        if self.accelerator.sync_gradients:
            self.agree()
            self.method_state.remember(gather_object)
            self.method_state.share_gradients(self.accelerator, self.args.max_grad_norm)
        return torch.stack(losses).sum()

    @contextmanager
    def _ahead(self, model: Any, parts: list[dict[str, Any]]) -> Iterator[None]:
        """The weights a step up the gradient that the method wants to look ahead along, for a while."""
        if self.method.ahead is None:
            yield
            return
        eta, climb = self.method.ahead
        weights = [p for p in model.parameters() if p.requires_grad]
        ascent = [torch.zeros_like(p) for p in weights]
        model.train()
        prompts = sum(len(part["batch"]) for part in parts)
        for part in parts:
            with self._more_to_come(model), self.compute_loss_context_manager():
                evidence, reading = self.read(model, self._prepare_inputs(part)["batch"])
                p = self.method.target(evidence, self.method.score.seen(reading))
                height = climb(p, evidence, reading).sum() / prompts
            found = torch.autograd.grad(height, weights, allow_unused=True)
            ascent = [a if g is None else a + g for a, g in zip(ascent, found, strict=True)]
        where = [p.detach().clone() for p in weights]
        with torch.no_grad():
            for parameter, slope in zip(weights, ascent, strict=True):
                parameter += eta * slope
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, home in zip(weights, where, strict=True):
                    parameter.copy_(home)

    @staticmethod
    def _parts(inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """One micro-batch each, in the form that ``compute_loss`` takes."""
        return [{"batch": batch, "counts": True} for batch in inputs["batch"]]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outcome = self.outcome(model, inputs["batch"], inputs["counts"])
        if self.is_deepspeed_enabled and model.training:
            self.agree()  # Its backward pass takes the optimiser's step as well.
        # The mean over processes follows, so each of them gives its share of the mean over prompts times their number.
        prompts = num_items_in_batch / self.accelerator.num_processes if num_items_in_batch else len(outcome.losses)
        loss = outcome.losses.sum() * (inputs["counts"] / prompts)
        return (loss, outcome) if return_outputs else loss

    def outcome(self, model: Any, batch: Batch, counts: bool = True) -> Outcome:
        """The method's verdict on a batch, tallied for the log if it counts."""
        self.method_state.heads.train(model.training)
        evidence, reading = self.read(model, batch)
        outcome = self.method(evidence, reading)
        # Of several models read at once, or several voices heard apart, each has its own loss of a prompt.
        outcome = replace(outcome, losses=outcome.losses.view(-1, len(batch)).sum(0))
        if counts:
            which = "train" if model.training else "eval"
            self.numbers[which].note(batch.ids, evidence, outcome, reading)
            self.tallies[which].add(outcome, evidence, reading, signs(self.method, outcome, evidence, reading))
            if model.training:
                self.method_state.observe(evidence, reading)
        return outcome

    def read(self, model: Any, batch: Batch) -> tuple[Evidence, Reading]:
        """What people said, with what the method remembers of it, and what the model says."""
        # The Trainer casts the policy alone; policy and reference must read in the same precision.
        with self.accelerator.autocast():
            reading = self.reader(model, batch)
        # A reader of several models gives the rows of each.
        evidence = batch.evidence.repeat(len(reading.mask) // len(batch))
        return self.method.heard(replace(evidence, memory=self.method_state.memory), reading)

    def create_scheduler(self, num_training_steps: int, *given: Any, **further: Any) -> Any:
        check_warmup(self.args.warmup_steps, num_training_steps)
        return super().create_scheduler(num_training_steps, *given, **further)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's, which trains the heads of the method as well."""
        known = self.optimizer
        optimizer = super().create_optimizer(model)
        heads = list(self.method_state.heads.parameters())
        if heads and known is None:
            rate = self.head_learning_rate
            optimizer.add_param_group({"params": heads, "weight_decay": 0.0} | ({} if rate is None else {"lr": rate}))
        return optimizer

    def trained(self) -> Iterator[tuple[str, Parameter]]:
        yield from super().trained()
        yield from self.method_state.heads.named_parameters(prefix="heads")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.method_state and self.args.should_save:
            self.method_state.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.method_state and checkpoint is not None:
            self.method_state.load(Path(checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.method_state:
            # What was learned beside the best model belongs to it, in what is measured and left of it.
            self.method_state.load(Path(str(self.state.best_model_checkpoint)))

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, None, None]:
        with torch.no_grad(), self.compute_loss_context_manager():
            parts = self._as_many_everywhere(self._parts(inputs))
            found = [self.outcome(model, **self._prepare_inputs(part)).losses.sum() for part in parts]
        # The mean over all prompts is that of the tally; this one the Trainer only wants to have.
        return torch.stack([*found, torch.zeros((), device=self.args.device)]).sum(), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        self.tallies["eval"] = Tally()
        self.numbers["eval"].forget()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        self.check_evaluation()
        means = self._means("eval")
        for measure in self.further:
            means |= measure()
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = {**self._means("train"), **logs}
        super().log(logs, start_time)

    def so_far(self) -> dict[str, float]:
        """The means of the window of training that is under way."""
        return told(self.tallies["train"].means(self._from_all))

    def _means(self, which: str) -> dict[str, float]:
        return told(self.tallies[which].flush(self._from_all))

    @torch.no_grad()
    def measures(self, example: Example) -> set[str]:
        """The names of what an evaluation measures, without ``eval_``, found on one example before training."""
        was_training = self.model.training
        self.model.eval()
        kept, self.tallies["eval"] = self.tallies["eval"], Tally()
        self.outcome(self.model, self.data_collator.batch([example]).to(self.args.device))
        found = self._means("eval")
        self.tallies["eval"] = kept
        self.model.train(was_training)
        return {"loss", *found}

    @staticmethod
    def _from_all(totals: Totals) -> list[Totals]:
        found: list[Totals] = gather_object([totals])
        return found
