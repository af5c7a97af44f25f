"""Runs that last: checkpoints are sealed, bad numbers never reach the weights, and a stop loses nothing.

What of the Trainer's work has to hold whatever is trained; ``loop`` puts the method on top.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers
from accelerate.utils import gather_object
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import nested_gather
from transformers.trainer_utils import rotate_checkpoints

from mmpo.errors import GoneBad, UserError
from mmpo.evaluate.running import Tally
from mmpo.run import checkpoints
from mmpo.run.disk import writing
from mmpo.run.finite import SKIPS, Named, Numbers, bad_gradients, bad_weights, gradient_norm, in_words
from mmpo.run.interrupts import SIGNALS, Stopped
from mmpo.run.trackers import outlive


class LastingTrainer(transformers.Trainer):
    """transformers.Trainer with sealed checkpoints, a look at every number before it is learned from, and an agreed
    stop of all processes.

    Attributes:
        asked_to_leave: the signal that asked this process to leave, 0 for none.
        leaving: the same, once all processes have agreed at the end of a step.
        evaluating: whether an evaluation is under way.
        trackers_lost: why each tracker was left out, by name.
    """

    control: TrainerControl

    def __init__(self, model: Any, args: TrainingArguments, **further: Any) -> None:
        super().__init__(model=model, args=args, **further)
        self.tallies = {"train": Tally(), "eval": Tally()}
        self.numbers = {"train": Numbers(), "eval": Numbers()}
        self.asked_to_leave = self.leaving = self._skipped = 0
        self._saved: int | None = None
        self._resumed: str | None = None
        self.evaluating = False
        self.trackers_lost: dict[str, str] = {}
        outlive(self.callback_handler.callbacks, self.trackers_lost)
        self._window = _Window(self)
        self.add_callback(self._window)

    def train(self, resume_from_checkpoint: Any = None, *given: Any, **further: Any) -> Any:
        self._resumed = resume_from_checkpoint
        args = self.args
        was = args.logging_nan_inf_filter, args.eval_on_start
        # The Trainer would hide what is not finite, and wait for the device twice a step to do so.
        args.logging_nan_inf_filter = False
        # Where the run goes on, its start has been evaluated.
        args.eval_on_start = args.eval_on_start and resume_from_checkpoint is None
        try:
            return super().train(resume_from_checkpoint, *given, **further)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{resume_from_checkpoint}: one of its files holds more than numbers, and reading it could run code; "
                "move that checkpoint away, and the same command goes on from the one before"
            ) from error
        finally:
            args.logging_nan_inf_filter, args.eval_on_start = was

    # ------------------------------------------------------------------------------------------ checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer's, sealed before an older one is given up for it."""
        self._check_weights()
        self._window.note()
        folder = Path(self._get_output_dir(trial))
        place = folder / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with writing(place, self.model):
                if self.args.should_save:
                    (place / checkpoints.SEAL).unlink(missing_ok=True)
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    checkpoints.seal(place)
        finally:
            self.args.save_total_limit = limit
        self._saved = self.state.global_step
        if self.args.should_save:
            # By number: what is left of one that was being deleted when the run was killed looks new by its date.
            rotate_checkpoints(str(folder), limit, self.state.best_model_checkpoint)

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        wrong = checkpoints.fault(best) if self.args.should_save else None
        if wrong is not None:
            raise UserError(
                f"{best}: the best model cannot be put back, because {wrong}; the same command goes on from the last "
                "checkpoint before it"
            )
        super()._load_best_model()

    def _run_epoch(self, **further: Any) -> None:
        if self._end_epoch(further["start_time"], further["resume_from_checkpoint"]):
            # The random numbers have been taken up, and used since.
            further["resume_from_checkpoint"] = None
        # A run that was killed after its last step has none left to take.
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            super()._run_epoch(**further)
            self._leave()

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        self._end_epoch(start_time, self._resumed)
        # What the last step left need not have been saved in a checkpoint.
        self._check_weights()
        return super()._finalize_training(trial, num_train_samples, start_time)

    def _end_epoch(self, start_time: float, checkpoint: str | None) -> bool:
        """Do what was due at the end of an epoch, where the run was killed between its last checkpoint and that.

        Returns whether there was anything.
        """
        owed, self._window.owed = self._window.owed, False
        if owed:
            self._load_rng_state(checkpoint)
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            self._maybe_log_save_evaluate(self._tr_loss, None, self.model_wrapped, None, 0, None, start_time)
        return owed

    def _maybe_log_save_evaluate(self, *given: Any, **further: Any) -> None:
        super()._maybe_log_save_evaluate(*given, **further)
        # After the last step of an epoch something may still be due at its end.
        if not float(self.state.epoch or 0.5).is_integer():
            self._leave()

    def _leave(self) -> None:
        """Where all processes have agreed to leave: with a checkpoint of the step that they have finished."""
        if not self.leaving:
            return
        if self._saved != self.state.global_step:
            self._save_checkpoint(self.model_wrapped, None)
        raise Stopped(self.leaving, f"at step {self.state.global_step}")

    def evaluate(self, *given: Any, **further: Any) -> dict[str, float]:
        self.evaluating = True
        try:
            return super().evaluate(*given, **further)
        finally:
            self.evaluating = False

    # ------------------------------------------------------------------------------------------ numbers

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimiser changes, by name."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def agree(self) -> None:
        """Before the optimiser's step, on all processes: are all numbers finite, and has anybody been asked to leave?

        Waits for the device once. Raises GoneBad.
        """
        device = self.args.device
        total = self.numbers["train"].total(device)
        if not self._scaled() and any(parameter.grad is not None for _, parameter in self.trained()):
            total = total + gradient_norm((parameter for _, parameter in self.trained()), device)
        asked = [float(self.asked_to_leave == signal) for signal in SIGNALS]
        flags = torch.cat([(~total.isfinite()).float()[None], torch.tensor(asked, device=device)])
        bad, *asked = self.accelerator.reduce(flags, "sum").tolist()
        if bad:
            gradients = [] if self._scaled() else bad_gradients(self.trained())
            self._go_bad(f"step {self.state.global_step + 1}", self.numbers["train"], gradients)
        self.numbers["train"].forget()
        self.leaving = next((signal for signal, n in zip(SIGNALS, asked, strict=True) if n), 0)
        self._count_skips()

    def check_evaluation(self) -> None:
        """Raise GoneBad where an evaluation met a number that is not finite; on all processes together."""
        total = self.numbers["eval"].total(self.args.device)
        if self.accelerator.reduce((~total.isfinite()).float(), "sum").item():
            self._go_bad(f"the evaluation at step {self.state.global_step}", self.numbers["eval"])
        self.numbers["eval"].forget()

    def _check_weights(self) -> None:
        """Raise GoneBad where what is to be saved is not finite; on all processes together."""
        bad = bad_weights(self.trained())
        if self.accelerator.reduce(torch.tensor(float(len(bad)), device=self.args.device), "sum").item():
            self._go_bad(f"after step {self.state.global_step}", Numbers(), weights=bad)

    def _scaled(self) -> bool:
        """Whether gradients are scaled for fp16; they overflow now and then, and such a step is skipped."""
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.is_enabled()

    def _count_skips(self) -> None:
        self._skipped = self._skipped + 1 if self._scaled() and self.accelerator.optimizer_step_was_skipped else 0
        if self._skipped >= SKIPS:
            raise GoneBad(
                f"step {self.state.global_step + 1}: the gradients overflowed fp16 in {SKIPS} steps in a row, at every "
                f"scale; nothing was learned in them. Nothing was saved after it: {self._last_good()}. Take bf16: true "
                "instead of fp16, or neither"
            )

    def _go_bad(self, where: str, own: Numbers, gradients: Sequence[str] = (), weights: Sequence[str] = ()) -> NoReturn:
        """Say what all processes found, and end the run."""
        found = gather_object([(own.bad(), list(gradients), list(weights), own.ids())])
        data: Named = {name: what for bad, *_ in found for name, what in bad.items()}
        gradients, weights = (sorted({name for one in found for name in one[n]}) for n in (1, 2))
        ids = [name for *_, names in found for name in names]
        raise GoneBad(in_words(where, data, gradients, weights, ids, self._last_good()))

    def _last_good(self) -> str:
        good = checkpoints.newest(Path(str(self.args.output_dir)))
        return f"the last good checkpoint is {good}" if good else "there is no checkpoint"

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_loss" in logs:
            # In place, since these are the metrics that training returns: the mean over the run, not since a restart.
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)


class _Window(TrainerCallback, ExportableState):
    """Keeps in a checkpoint what has not been logged yet, so that the log too goes on as if nothing had happened.

    ``owed`` says that the run goes on from the last step of an epoch, of which the end is still to come.
    """

    def __init__(self, trainer: LastingTrainer) -> None:
        self._trainer = trainer
        self._kept: dict[str, Any] = {}
        self._ended = self.owed = False

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": self._kept}

    def note(self) -> None:
        """Take down the window that is under way, on all processes together."""
        trainer = self._trainer
        sums: dict[tuple[str, ...], torch.Tensor] = {}
        own = [(names, table.cpu()) for names, table in trainer.tallies["train"].sums.items()]
        for names, table in gather_object(own):
            sums[names] = sums[names] + table if names in sums else table
        whole = float(trainer.state.epoch or 0.5).is_integer()
        self._kept = {
            "loss": nested_gather(trainer._tr_loss, trainer.args.parallel_mode).mean().item(),
            "total": trainer._total_loss_scalar,
            "since": trainer._globalstep_last_logged,
            "owed": not self._ended and (whole or trainer.control.should_training_stop),
            "sums": [[list(names), table.tolist()] for names, table in sums.items()],
        }

    def on_step_end(self, args: Any, state: Any, control: Any, **further: Any) -> None:
        self._ended = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **further: Any) -> None:
        self._ended = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **further: Any
    ) -> None:
        kept = (state.stateful_callbacks or {}).setdefault(type(self).__name__, self.state())["attributes"]
        if kept:
            self._go_on(kept, state.is_world_process_zero)
        best = Path(str(args.output_dir)) / f"checkpoint-{state.best_global_step}"
        if state.best_global_step is not None and best.is_dir():
            # The folder of the run may have been moved since.
            state.best_model_checkpoint = str(best)

    def _go_on(self, kept: Mapping[str, Any], first: bool) -> None:
        trainer, device = self._trainer, self._trainer.args.device
        trainer._tr_loss = torch.tensor(kept["loss"], device=device)
        trainer._total_loss_scalar, trainer._globalstep_last_logged = kept["total"], kept["since"]
        self.owed = kept["owed"]
        # The sums are those of all processes together.
        sums = {tuple(names): torch.tensor(table, device=device) for names, table in kept["sums"]}
        trainer.tallies["train"].sums = sums if first else {}
