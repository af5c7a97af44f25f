"""Watches a run while it trains: traces, looks, verdicts; and stops it where it is asked to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from mmpo.errors import UserError
from mmpo.evaluate.health.look import Look
from mmpo.evaluate.health.look import vitals as of_looks
from mmpo.evaluate.health.probe import Probe, Unseen
from mmpo.evaluate.health.rules import RULES
from mmpo.evaluate.health.settings import Health
from mmpo.evaluate.health.vital import FILE, Traces, Verdict, Vital, worst
from mmpo.files import write_whole
from mmpo.run.loop import GradedTrainer

START = "health/start/per_token"


class HealthCallback(TrainerCallback, ExportableState):
    """Reads the health of a run from its log, and with a probe from what the policy writes.

    It keeps to the same numbers on every process, so that all of them stop together. Looks are taken on the main
    process while the others wait; with weights that are divided among processes they are refused.

    Args:
        settings: how often to look, and what the verdict "stop" does.
        probe: takes the looks; None where none are asked for.
    """

    def __init__(self, settings: Health | None = None, probe: Probe | None = None) -> None:
        self.settings, self.probe = settings or Health(), probe
        self.traces = Traces()
        self.looks: list[Look] = []
        self.unseen: Unseen = []
        self.stopped: str | None = None
        self._kept: int | None = None
        self._of_looks: list[Vital] = []
        self.said: list[tuple[int, str, Verdict]] = []
        """Every change of a verdict: (step, sign, verdict), in order."""
        self._trainer: GradedTrainer | None = None

    def attach(self, trainer: GradedTrainer) -> None:
        """Watch this Trainer, of whose callbacks this one is. Raises UserError where it cannot look at its policy."""
        if self.probe is not None and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            raise UserError(
                "health.every has the policy write, which it cannot while FSDP or DeepSpeed divide its weights; leave "
                "every out (what is logged is watched all the same)"
            )
        self._trainer = trainer
        if self.probe is not None:
            trainer.further.append(self.measured)

    # ------------------------------------------------------------------------------------------ what the Trainer says

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the looks so far, the answers that are followed, and what was said."""
        looks = [look.as_dict() for look in self.looks]
        told = {"said": self.said, "stopped": self.stopped, "start": self.traces[START]}
        return {"args": {}, "attributes": {"looks": looks, "unseen": self.unseen, **told}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **further: Any
    ) -> None:
        """Go on from what a checkpoint kept, or look at the policy before its first step."""
        kept = (state.stateful_callbacks or {}).setdefault(type(self).__name__, self.state())["attributes"]
        self.looks, self.unseen = [Look(**look) for look in kept["looks"]], kept["unseen"]
        self.said = [(step, name, verdict) for step, name, verdict in kept["said"]]
        # Killed between the stop and the end: the step that is under way is the last.
        self.stopped = kept["stopped"]
        control.should_training_stop = self.stopped is not None
        self.traces, self._of_looks = Traces.of(state.log_history), of_looks(self.looks)
        self.traces.by_name |= {START: [(step, value) for step, value in kept["start"]]} if kept["start"] else {}
        if self.probe is not None and not self.looks:
            self._look(further["model"], state, control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **further: Any
    ) -> None:
        if state.global_step == 1 and self._trainer is not None:
            # The first step was read before its update; nothing else is in the tally yet.
            found = self._trainer.so_far().get("health/drift/per_token")
            if found is not None:
                self.traces.add({"step": 1, START: found})
                self._judge(state, control)
        every = self.settings.steps(state.max_steps)
        if self.probe is not None and every is not None and state.global_step % every == 0:
            self._look(further["model"], state, control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any],
        **further: Any,
    ) -> None:
        self.traces.add({**logs, "step": state.global_step})
        if control.should_evaluate and not any(name.startswith("eval_") for name in logs):
            return  # The evaluation of this very step follows; until then held-out numbers are those of another model.
        self._judge(state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **further: Any
    ) -> None:
        """A look at the policy that is left, which need not be that of the last step: what came after is not its."""
        kept = (state.best_global_step if args.load_best_model_at_end else None) or state.global_step
        self._kept = kept if kept < state.global_step else None
        if self.probe is not None and (kept != state.global_step or self.looks[-1].step != kept):
            self._look(further["model"], state, control, kept)

    # ------------------------------------------------------------------------------------------ what it finds

    @property
    def vitals(self) -> list[Vital]:
        """The verdicts on the run so far, or up to the model that was put back; a sign that does not apply is not
        among them."""
        traces = self.traces if self._kept is None else self.traces.until(self._kept)
        return [vital for rule in RULES if (vital := rule(traces)) is not None] + self._of_looks

    @property
    def names(self) -> set[str]:
        """The names of what ``measured`` will give."""
        return set() if self.probe is None else {f"health/answers/{name}" for name in self.probe.measures}

    def _last(self, name: str) -> tuple[int, Verdict]:
        """Since which step a sign has had its verdict, and the verdict."""
        return next(((step, verdict) for step, of, verdict in reversed(self.said) if of == name), (0, "fine"))

    def _judge(self, state: TrainerState, control: TrainerControl) -> None:
        """Say which verdicts changed, and stop where that is asked for."""
        for vital in self.vitals:
            if vital.verdict == self._last(vital.name)[1]:
                continue
            self.said.append((state.global_step, vital.name, vital.verdict))
            if state.is_world_process_zero:
                print(f"step {state.global_step}: {vital}")
            going_on = state.global_step < state.max_steps and not control.should_training_stop
            if vital.verdict == "stop" and self.settings.on_stop == "stop" and going_on:
                control.should_training_stop = True
                self.stopped = f"{vital.name} at step {state.global_step}"

    def measured(self) -> dict[str, float]:
        """The numbers of the last look, for the metrics of an evaluation."""
        return self.looks[-1].numbers if self.looks else {}

    def _look(self, model: Any, state: TrainerState, control: TrainerControl, step: int | None = None) -> None:
        """Look at a model, which is that of ``step`` (by default of now), and judge by the looks up to there."""
        assert self.probe is not None and self._trainer is not None
        step = state.global_step if step is None else step
        found: list[Any] = [None, None]
        if state.is_world_process_zero:
            unseen = self.unseen or self.probe.unseen(model)
            found = [unseen, self.probe.look(model, step, unseen).as_dict()]
        if self._trainer.accelerator.num_processes > 1:
            found = broadcast_object_list(found)
        self.unseen = found[0]
        self.looks = [look for look in self.looks if look.step != step] + [Look(**found[1])]
        self._of_looks = of_looks([look for look in self.looks if look.step <= step])
        # Logged at once, so that trackers draw the policy where it was looked at. The Trainer takes every log for that
        # of the window, which would be left out.
        due = control.should_log
        self._trainer.log({**self.looks[-1].numbers, "health/answers/seconds": self.looks[-1].seconds})
        control.should_log = due

    # ------------------------------------------------------------------------------------------ what it leaves

    def as_dict(self) -> dict[str, Any]:
        """All of it, for health.json."""
        vitals = self.vitals
        watched = {
            name: [point for point in trace if math.isfinite(point[1])]
            for name, trace in self.traces.by_name.items()
            if drawn(name)
        }
        return {
            "verdict": worst(vital.verdict for vital in vitals),
            "stopped": self.stopped,
            "vitals": [{**vital.as_dict(), "since": self._last(vital.name)[0]} for vital in vitals],
            "said": self.said,
            "settings": self.settings.model_dump(),
            "seconds": round(sum(look.seconds for look in self.looks), 2),
            "traces": watched,
            "looks": [asdict(look) for look in self.looks],
        }

    def lines(self) -> list[str]:
        """The verdicts in a few lines, the gravest first."""
        vitals = self.vitals
        found = [vital for verdict in ("stop", "watch") for vital in vitals if vital.verdict == verdict]
        fine = len(vitals) - len(found)
        out = [f"health: {fine} of {len(vitals)} signs are fine" + ("" if found else f" ({FILE})")]
        out += [f"  {vital}" for vital in found]
        if self.stopped:
            out.append(f"  stopped by {self.stopped} (health.on_stop: stop)")
        if self.looks:
            out.append(f"  {len(self.looks)} looks at what it writes took {sum(x.seconds for x in self.looks):.0f} s")
        return out

    def write(self, folder: Path) -> None:
        """Write health.json whole or not at all."""
        write_whole(folder / FILE, json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n")


def drawn(name: str) -> bool:
    """Whether a trace belongs to a run's health."""
    bare = name.removeprefix("eval_")
    return bare == "loss" or bare.startswith(("health/", "rewards/", "logps/"))
