"""From a recipe to a plan: what each number of devices must hold, how long a step takes, and what would make it fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

from tqdm.auto import tqdm

from mmpo.plan.hardware import Device
from mmpo.plan.memory import SPLITS, Job, Memory, Split, memory
from mmpo.plan.rows import Lengths, cost
from mmpo.plan.trace import Footprint, footprint
from mmpo.plan.work import Flops, Seconds, flops, load, seconds
from mmpo.recipe import Recipe

MOST = 4
"""Ways to make it fit that are told."""


NONE = Footprint(0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Line:
    """A number of devices, how the model lies on them, and what that takes on each.

    Attributes:
        prompts: of a step, on all devices.
        steps: of an epoch, where the number of prompts is known.
    """

    devices: int
    split: Split
    memory: Memory
    seconds: Seconds
    prompts: int
    steps: int | None
    fits: bool


@dataclass(frozen=True)
class Change:
    """A setting that takes less memory: how it is written, and whether another result is trained with it."""

    written: str
    apply: Callable[[Job], Job]
    other_result: bool = False


@dataclass(frozen=True)
class Mend:
    """Changes that make a line fit, and the line with them."""

    changes: tuple[str, ...]
    other_result: bool
    line: Line


@dataclass
class Planner:
    """What is planned for: a job, its rows, a device, and the prompts of a step on each device.

    ``accumulation`` is ``gradient_accumulation_steps``: batches of a step, each of ``batch`` prompts.
    """

    job: Job
    lengths: Lengths
    device: Device
    batch: int = 8
    accumulation: int = 1
    traced: dict[str, Footprint] = field(default_factory=dict)

    def line(self, devices: int, split: Split, job: Job | None = None) -> Line:
        """One row of the plan."""
        job = job or self.job
        steps = self.lengths.steps(self.batch, job.micro_batch_tokens, job.layout)
        parts = self.accumulation * sum(map(len, steps)) / len(steps)
        found = memory(job, self.footprint(job, split, devices), self.device, split, devices, one=parts == 1)
        took = seconds(job, self.work(job), self.device, split, devices, parts)
        prompts = self.batch * self.accumulation * devices
        epoch = None if self.lengths.prompts is None else -(-self.lengths.prompts // prompts)
        return Line(devices, split, found, took, prompts, epoch, found.total <= self.device.memory)

    def lines(self, counts: Sequence[int], splits: Sequence[Split] = SPLITS) -> list[Line]:
        """All rows: one for one device, and one for each way to lie on several."""
        return [self.line(devices, split) for devices in counts for split in (("alone",) if devices == 1 else splits)]

    def work(self, job: Job) -> Flops:
        """What a device computes in a step, on average."""
        steps = self.lengths.steps(self.batch, job.micro_batch_tokens, job.layout)
        both = job.layout != "shared" and job.blueprint.anatomy.layout == "separate"
        done = [flops(job, load(part, job.layout, both), self.device.kind) for step in steps for part in step]
        share = self.accumulation / len(steps)
        return Flops(*(share * sum(column) for column in zip(*map(astuple, done), strict=True)))

    def footprint(self, job: Job, split: Split, devices: int) -> Footprint:
        """What the largest micro-batch takes. Divided weights are gathered in the precision of the computation."""
        divided = devices > 1 and split != "ddp"
        dtype = job.half if divided and job.half else None
        rows = self.lengths.worst(self.batch, job.micro_batch_tokens, job.layout)
        model = job.blueprint
        key = json.dumps([model.dtype, model.lora, dtype, rows, job.layout, job.half, job.checkpointing], default=str)
        if key not in self.traced:
            self.traced[key] = footprint(
                model,
                rows,
                layout=job.layout,
                device=self.device.kind,
                autocast=job.autocast,
                checkpointing=job.checkpointing,
                dtype=dtype,
            )
        return self.traced[key]

    # ------------------------------------------------------------------------------------------ what would fit

    def mends(self, devices: int) -> list[Mend]:
        """The ways to make so many devices hold it: those that change fewest settings, and of these first those that
        train the same, then the fastest. Empty where not even four changes are enough."""
        splits: tuple[Split, ...] = ("alone",) if devices == 1 else ("ddp", "fsdp2", "zero3")
        for size in range(5):
            found = [
                mend
                for chosen in tqdm(
                    list(combinations(self.changes, size)), desc=f"{size} changes", leave=False, mininterval=1.0
                )
                for split in splits
                if (mend := self._mend(chosen, devices, split)) is not None
            ]
            if found:
                found.sort(key=lambda mend: (mend.other_result, mend.line.seconds.high))
                return found[:MOST]
        return []

    def _mend(self, chosen: Sequence[Change], devices: int, split: Split) -> Mend | None:
        job = self.job
        for change in chosen:
            job = change.apply(job)
        # What does not even fit without activations need not be traced.
        if memory(job, NONE, self.device, split, devices).total > self.device.memory:
            return None
        line = self.line(devices, split, job)
        written = tuple(change.written for change in chosen) + ((split,) if split != "alone" else ())
        return Mend(written, any(change.other_result for change in chosen), line) if line.fits else None

    @cached_property
    def changes(self) -> list[Change]:
        """The settings that this job could have and has not."""
        job, out = self.job, []
        if job.reference == "copy":
            out.append(Change("reference: cached", lambda job: replace(job, reference="cached")))
        if job.checkpointing is None:
            out.append(Change("gradient_checkpointing: true", lambda job: replace(job, checkpointing={})))
        least = max(cost(row, job.layout) for row in self.lengths.rows)
        if least < job.micro_batch_tokens:
            smaller = max(least, job.micro_batch_tokens // 4)
            out.append(Change(f"micro_batch_tokens: {smaller}", lambda job: replace(job, micro_batch_tokens=smaller)))
        if job.half is None and job.blueprint.dtype == "float32":
            out.append(Change("bf16: true", lambda job: replace(job, half="bfloat16"), True))
        if job.blueprint.lora is None:
            if job.optimizer.startswith("adamw") and not job.optimizer.endswith("8bit"):
                out.append(Change("optim: adamw_8bit", lambda job: replace(job, optimizer="adamw_8bit"), True))
            out.append(Change("lora: {r: 16}, dtype: bfloat16", _adapted, True))
        if job.blueprint.quantize is None and "quantize" in Recipe.model_fields:
            own = "" if job.blueprint.lora else "lora: {r: 16}, dtype: bfloat16, "
            out.append(Change(f"{own}quantize: 4bit", _quantized, True))
        return out


def _adapted(job: Job) -> Job:
    half = "bfloat16" if job.half else None
    lora: dict[str, Any] = {"r": 16, **(job.blueprint.lora or {})}
    reference = "adapter" if job.reference == "copy" else job.reference
    return replace(job, blueprint=replace(job.blueprint, lora=lora, dtype="bfloat16"), half=half, reference=reference)


def _quantized(job: Job) -> Job:
    job = _adapted(job)
    return replace(job, blueprint=replace(job.blueprint, quantize="4bit"))
