"""What one device must hold while a model trains, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import torch

from mmpo.errors import UserError
from mmpo.models.packed import Layout
from mmpo.plan.blueprint import HALF, Anatomy, Blueprint
from mmpo.plan.hardware import Device
from mmpo.plan.trace import Footprint

Split: TypeAlias = Literal["alone", "ddp", "fsdp2", "zero2", "zero3"]
"""How weights, gradients and optimiser states lie on several devices: whole on each (ddp), or divided."""

SPLITS: tuple[Split, ...] = ("ddp", "fsdp2", "zero2", "zero3")

SINGLE = 4
"""Bytes of a number in fp32."""

STATES = {
    # two moments in the dtype of the weight
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_anyprecision", "stable_adamw", "grokadamw"), 2.0),
    **dict.fromkeys(("paged_adamw_32bit", "schedule_free_adamw", "schedule_free_radam"), 2.0),
    # one
    **dict.fromkeys(("rmsprop", "rmsprop_bnb", "rmsprop_bnb_32bit", "lion_32bit", "paged_lion_32bit", "adagrad"), 1.0),
    "schedule_free_sgd": 1.0,
    "sgd": 0.0,
    "ademamix": 3.0,
    "paged_ademamix_32bit": 3.0,
}
"""What optimisers of ``TrainingArguments.optim`` keep of each trained number, in numbers of the weight's dtype."""

BYTES = {
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "adamw_torch_8bit", "paged_adamw_8bit"), 2.0),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"), 1.0),
    **dict.fromkeys(("ademamix_8bit", "paged_ademamix_8bit"), 3.0),
    "adamw_torch_4bit": 1.0,
}
"""The same of those that keep them in few bits, in bytes. Each block of 256 numbers has a scale besides."""

BUCKET = 5e8
"""Gradients that ZeRO sends at once, by DeepSpeed's default."""

LINKS = 0.5 * 2**30
"""Bytes that NCCL takes."""

LIVE = 1e9
"""Weights that ZeRO 3 keeps whole at most, by its default."""


@dataclass(frozen=True)
class Job:
    """What the memory and the time of a run hang on, its data and devices apart.

    Attributes:
        blueprint: the model that is trained.
        reference: a policy's reference: "copy", "adapter", "cached" or None.
        half: "bfloat16" or "float16" where the Trainer computes in it (bf16, fp16), else None.
        optimizer: as ``TrainingArguments.optim`` names it.
        checkpointing: arguments of gradient checkpointing, or None without.
        layout: how sequences are laid out.
        micro_batch_tokens: tokens of a micro-batch at most.
        beside: frozen models that are read besides, such as teachers.
        models: how many are trained side by side.
        ahead: whether the method takes gradients a step ahead.
    """

    blueprint: Blueprint
    reference: str | None = None
    half: str | None = None
    optimizer: str = "adamw_torch"
    checkpointing: Mapping[str, Any] | None = None
    layout: Layout = "shared"
    micro_batch_tokens: int = 8192
    beside: tuple[Blueprint, ...] = ()
    models: int = 1
    ahead: bool = False

    @property
    def autocast(self) -> torch.dtype | None:
        return None if self.half is None else getattr(torch, self.half)

    @property
    def width(self) -> int:
        """Bytes of a weight in the dtype that it is computed with."""
        return HALF if self.half else getattr(torch, self.blueprint.dtype).itemsize


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while it trains, at their height.

    Attributes:
        weights: of the model; where they are divided, also what is gathered of them at a time.
        gradients: and the buckets in which they travel.
        optimizer: its states, and with ZeRO the master weights.
        others: a copied reference, teachers.
        activations: what the layers keep for the backward pass, the weights cast to half precision among it.
        workspace: what comes on top while a pass runs: logits, gradients under way.
        slack: what libraries and the allocator take besides.
    """

    weights: float
    gradients: float
    optimizer: float
    others: float
    activations: float
    workspace: float
    slack: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


PARTS = tuple(field.name for field in fields(Memory))


def memory(
    job: Job, found: Footprint, device: Device, split: Split = "alone", devices: int = 1, one: bool = False
) -> Memory:
    """What each of so many devices holds.

    Args:
        job: what is trained.
        found: what its largest micro-batch takes, traced with the weights in the dtype they are computed with.
        device: where.
        split: how it lies on several devices; on one, nothing is divided.
        devices: how many.
        one: whether a step is one micro-batch. If not, the gradients of the step are there all the time.
    """
    anatomy = job.blueprint.anatomy
    weights, gradients, optimizer = states(job, "alone" if devices == 1 else split, devices)
    others = sum(model.anatomy.weight_bytes for model in job.beside)
    if job.reference == "copy":
        # FSDP divides it like the model, layer by layer.
        shared = split == "fsdp2" and devices > 1
        others += anatomy.weight_bytes / devices + job.width * anatomy.block if shared else anatomy.weight_bytes
    held = found.peak
    if one:
        # Gradients come as activations go.
        grown = min(gradients, anatomy.trained_bytes)
        held = max(held - grown, found.backward - found.kept)
    held = max(held, stepping(job, device) / (devices if split != "ddp" else 1))
    if job.ahead:  # two sets of gradients, and the weights to come back to
        gradients += 3 * anatomy.trained_bytes
    activations = min(found.kept, held)
    links = LINKS if devices > 1 and device.kind == "cuda" else 0.0
    return Memory(
        weights=job.models * weights,
        gradients=job.models * gradients,
        optimizer=job.models * optimizer,
        others=others,
        activations=job.models * activations,
        workspace=job.models * (held - activations),
        slack=device.overhead + links + device.spread * job.models * held,
    )


def states(job: Job, split: Split, devices: int) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimiser states on each device, with what dividing them takes."""
    anatomy, width = job.blueprint.anatomy, job.width
    trained, weights, gradients = anatomy.trained, anatomy.weight_bytes, float(anatomy.trained_bytes)
    optimizer = kept_by_optimizer(job.optimizer, anatomy)
    if split == "alone":
        return weights, gradients, optimizer
    if split == "ddp":
        return weights, 2 * gradients, optimizer
    if split == "fsdp2":
        # The layer at work, the one that is fetched meanwhile, and what is in no layer.
        gathered = width * (2 * anatomy.block + anatomy.rest)
        under_way = width * (anatomy.block + anatomy.rest) * trained / anatomy.parameters
        return weights / devices + gathered, gradients / devices + under_way, optimizer / devices
    # DeepSpeed computes with all weights in half precision, and steps on masters and gradients in fp32.
    computed = width * trained + min(weights - gradients, width * (anatomy.parameters - trained))
    wide = SINGLE * trained
    masters = (wide if width < SINGLE else 0) + wide + optimizer * wide / max(gradients, 1)
    own = width * trained / devices + width * min(trained, BUCKET)
    if split == "zero2":
        return computed, own, masters / devices
    return computed / devices + width * min(anatomy.parameters, LIVE + anatomy.block), own, masters / devices


def stepping(job: Job, device: Device) -> float:
    """Bytes that the optimiser's step takes for a moment: on a GPU many weights at once, if they are not fused."""
    anatomy, fused = job.blueprint.anatomy, job.optimizer in ("adamw_torch_fused", *BYTES)
    if fused:
        return 0.0
    together = device.kind == "cuda" and job.optimizer in STATES
    return float(anatomy.trained_bytes) if together else 3.0 * SINGLE * anatomy.largest


def kept_by_optimizer(name: str, anatomy: Anatomy) -> float:
    """Bytes of the states of an optimiser. Raises UserError for one that is not known."""
    name = str(getattr(name, "value", name))
    if name in STATES:
        return STATES[name] * anatomy.trained_bytes
    if name in BYTES:
        return BYTES[name] * anatomy.trained * (1 + SINGLE / 256)
    if name == "adafactor":
        return float(SINGLE * anatomy.factored)
    known = ", ".join(sorted({*STATES, *BYTES, "adafactor"}))
    raise UserError(f"optim: what {name} keeps is not known, so its memory cannot be planned; known: {known}")
