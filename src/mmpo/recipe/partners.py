"""What the keys of a recipe need of one another to have any effect."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from types import SimpleNamespace
from typing import Any

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.training_args import ParallelMode

from mmpo.errors import UserError, first_line, nearest
from mmpo.recipe.keys import TRAINING_KEYS, changed, check_arguments, default

IDLE_OPTIMIZERS = {
    r"lomo|layerwise": "it changes weights in the middle of a step, which is worked through in parts here",
    r"galore|apollo": "it is not tried here",
}
"""Optimisers that are refused, by what their names match."""

TRACKERS = {
    "run_name": ("wandb", "trackio", "comet_ml", "mlflow", "swanlab"),
    "project": ("trackio",),
    "trackio_space_id": ("trackio",),
    "trackio_bucket_id": ("trackio",),
    "trackio_static_space_id": ("trackio",),
}
"""The trackers that read a key."""


@dataclass(frozen=True)
class Asked:
    """The keys that a recipe gives, with the defaults of the others, and what else they depend on."""

    given: Mapping[str, Any]
    eval_data: bool = False
    early_stopping: bool = False
    device: bool = False
    """Whether the run has an accelerator."""

    def __getitem__(self, key: str) -> Any:
        return self.given.get(key, default(key))

    @property
    def trackers(self) -> list[str]:
        named = self["report_to"]
        return [named] if isinstance(named, str) else list(named or ())

    @property
    def judges(self) -> bool:
        """Whether one evaluation is held against another."""
        plateau = self["lr_scheduler_type"] in ("reduce_lr_on_plateau", "greedy")
        best = self["load_best_model_at_end"] or self["save_strategy"] == "best"
        return bool(best or plateau or self.early_stopping)

    @property
    def warms_up(self) -> bool:
        schedule = TYPE_TO_SCHEDULER_FUNCTION[self["lr_scheduler_type"]]
        return "num_warmup_steps" in signature(schedule).parameters or "schedule_free" in self["optim"]


_JUDGES = (
    lambda asked: asked.judges,
    "load_best_model_at_end: true, save_strategy: best, early_stopping_patience or lr_scheduler_type: "
    "reduce_lr_on_plateau",
)
_CHECKPOINTING = (
    lambda asked: bool(asked["gradient_checkpointing"] or _value(asked, "activation_checkpointing")),
    "gradient_checkpointing: true",
)
_WORKERS = (lambda asked: asked["dataloader_num_workers"] > 0, "dataloader_num_workers above 0")
_EVAL_DATA = (lambda asked: asked.eval_data, "eval_data")
_DEVICE = (lambda asked: asked.device, "an accelerator, such as a GPU, and no use_cpu: true")
_COMPILED = (lambda asked: bool(asked["torch_compile"]), "torch_compile: true")


def _value(asked: Asked, key: str) -> Any:
    """The value of a key that earlier releases of transformers do not have."""
    return asked[key] if key in TRAINING_KEYS else None


def _tracked(key: str) -> tuple[Callable[[Asked], bool], str]:
    by = TRACKERS[key]
    return lambda asked: bool({*by, "all"} & set(asked.trackers)), f"report_to: {' or '.join(by)}"


PARTNERS: dict[str, tuple[Callable[[Asked], bool], str]] = {
    "warmup_steps": (lambda asked: asked.warms_up, "a schedule that warms up, such as lr_scheduler_type: linear"),
    "gradient_checkpointing_kwargs": _CHECKPOINTING,
    "activation_checkpointing_kwargs": _CHECKPOINTING,
    "torch_compile_backend": _COMPILED,
    "torch_compile_mode": (
        lambda asked: bool(asked["torch_compile"]) and (asked["torch_compile_backend"] or "inductor") == "inductor",
        "torch_compile: true with the backend inductor",
    ),
    "logging_steps": (lambda asked: asked["logging_strategy"] == "steps", "logging_strategy: steps"),
    "save_steps": (lambda asked: asked["save_strategy"] == "steps", "save_strategy: steps"),
    "save_total_limit": (lambda asked: asked["save_strategy"] != "no", "a save_strategy that saves"),
    "eval_strategy": _EVAL_DATA,
    "eval_on_start": _EVAL_DATA,
    "per_device_eval_batch_size": _EVAL_DATA,
    "eval_steps": (lambda asked: asked["eval_strategy"] == "steps", "eval_strategy: steps"),
    "eval_delay": (lambda asked: asked["eval_strategy"] != "no", "eval_strategy: steps or epoch"),
    "metric_for_best_model": _JUDGES,
    "greater_is_better": _JUDGES,
    "dataloader_prefetch_factor": _WORKERS,
    "dataloader_persistent_workers": _WORKERS,
    "dataloader_multiprocessing_context": _WORKERS,
    "dataloader_pin_memory": _DEVICE,
    "torch_empty_cache_steps": _DEVICE,
    "tf32": _DEVICE,
    "fp16": _DEVICE,
    "ddp_timeout": _DEVICE,
    "fsdp_config": (lambda asked: bool(asked["fsdp"]), "fsdp: true"),
    **{key: _tracked(key) for key in TRACKERS},
    # Only a space that is written to can be kept still.
    "trackio_static_space_id": (lambda asked: bool(asked["trackio_space_id"]), "trackio_space_id"),
}
"""What a key needs to have any effect: a question of what else is asked for, and the answer in words."""


def check_together(asked: Asked) -> None:
    """Raise UserError for keys that would do nothing beside the others, or contradict them."""
    for key, value in asked.given.items():
        acts, partner = PARTNERS.get(key, (None, ""))
        # A key that asks for nothing promises nothing.
        if acts is not None and value and value != "no" and not acts(asked):
            raise UserError(f"{key} has no effect without {partner}; add that, or leave {key} out")
    if asked["max_steps"] > 0 and "num_train_epochs" in asked.given:
        raise UserError("max_steps and num_train_epochs both say how long the run is; give one")
    if {"gradient_checkpointing", "activation_checkpointing"} <= asked.given.keys():
        raise UserError("gradient_checkpointing and activation_checkpointing are two names of one key; give one")
    if asked["debug"] and "tpu" in str(asked["debug"]):
        raise UserError("debug: tpu_metrics_debug is for TPUs, on which mmpo does not run; leave it out")
    _check_schedule(asked)
    _check_optimizer(asked)
    _check_fsdp(asked)


def check_python(args: TrainingArguments, eval_data: Any, callbacks: Sequence[TrainerCallback]) -> None:
    """Hold arguments from Python to what recipes are held to. Raises UserError for what would do nothing."""
    check_arguments(args)
    early = any(isinstance(one, EarlyStoppingCallback) for one in callbacks)
    some = not (isinstance(eval_data, Sequence) and len(eval_data) == 0)
    check_together(Asked(changed(args), some, early, has_accelerator(args.use_cpu)))
    check_processes(args)


def check_processes(args: TrainingArguments) -> None:
    """Raise UserError where one process is to divide a model."""
    if args.fsdp and args.parallel_mode != ParallelMode.DISTRIBUTED:
        raise UserError(
            "fsdp divides a model among processes, and there is one; start it with accelerate launch or torchrun, or "
            "leave fsdp out"
        )


def check_warmup(warmup: float, steps: int) -> None:
    """Raise UserError where the learning rate would not be reached before the run of so many steps ends."""
    if steps <= warmup and warmup >= 1:
        raise UserError(
            f"warmup_steps is {warmup:g}, but the run has {steps} steps; give fewer, or a share such as 0.1"
        )


def _check_schedule(asked: Asked) -> None:
    name = asked["lr_scheduler_type"]
    own = signature(TYPE_TO_SCHEDULER_FUNCTION[name]).parameters
    known = [key for key in own if key not in ("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch")]
    anything = any(one.kind is one.VAR_KEYWORD for one in own.values())
    given = asked["lr_scheduler_kwargs"] or {}
    for key in given if not anything else ():
        if key not in known:
            hint = nearest(key, known) if known else "It takes none."
            raise UserError(f"lr_scheduler_kwargs: the schedule {name!r} has no {key!r}. {hint}")
    for key in known:
        if own[key].default is own[key].empty and own[key].kind is not own[key].VAR_KEYWORD and key not in given:
            raise UserError(f"lr_scheduler_type {name!r} needs lr_scheduler_kwargs: {{{key}: ...}}")
    if name == "constant_with_warmup" and not asked["warmup_steps"]:
        raise UserError("lr_scheduler_type constant_with_warmup is constant without warmup_steps; add them")
    check_warmup(asked["warmup_steps"], asked["max_steps"] if asked["max_steps"] > 0 else 2**62)


def _check_optimizer(asked: Asked) -> None:
    """The optimiser must be there, and read what is set for it: each key is held against another value of itself."""
    for names, why in IDLE_OPTIMIZERS.items():
        if re.search(names, asked["optim"]):
            raise UserError(f"optim is {asked['optim']!r}: {why}; take adamw_torch, adafactor or sgd")
    try:
        made = _optimizer(asked)
    except (ImportError, ValueError) as error:
        raise UserError(f"optim is {asked['optim']!r}: {first_line(error)}") from error
    for key in ("adam_beta1", "adam_beta2", "adam_epsilon"):
        if key in asked.given and _optimizer(asked, **{key: 0.123}) == made:
            raise UserError(f"{key} has no effect with optim: {asked['optim']}; leave it out")
    pairs = [pair.partition("=")[::2] for pair in (asked["optim_args"] or "").replace(" ", "").split(",") if pair]
    for name, value in pairs:
        others = [(n, v) for n, v in pairs if n != name]
        if not value or _reads(asked, others) == _reads(asked, [*others, (name, "?")]):
            raise UserError(f"optim_args: the optimiser {asked['optim']} does not read {name!r}; leave it out")


def _optimizer(asked: Asked, **other: Any) -> tuple[Any, Any]:
    """The optimiser that the Trainer would make, as class and arguments."""
    values = {key: asked[key] for key in TRAINING_KEYS} | other
    return Trainer.get_optimizer_cls_and_kwargs(SimpleNamespace(**values))


def _reads(asked: Asked, pairs: list[tuple[str, str]]) -> Any:
    try:
        return _optimizer(asked, optim_args=",".join(f"{name}={value}" for name, value in pairs))
    except (ValueError, AttributeError, TypeError) as error:
        return str(error)


class _Watched(dict[str, Any]):
    """A mapping that remembers which of its keys were asked for."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)


def _check_fsdp(asked: Asked) -> None:
    """Each key of fsdp_config must be read by transformers, which says nothing about those that it does not know."""
    config = asked["fsdp_config"]
    if not asked["fsdp"] or not isinstance(config, Mapping):
        return
    watched = _Watched({str(key).removeprefix("fsdp_"): value for key, value in config.items()})
    duck = SimpleNamespace(fsdp=True, fsdp_config=watched, activation_checkpointing=False)
    try:
        TrainingArguments._process_fsdp_args(duck)
    except (ValueError, TypeError) as error:
        raise UserError(f"fsdp_config: {first_line(error)}") from error
    for key, value in config.items():
        # TrainingArguments fill in that there is no TPU.
        filled_in = str(key).startswith("xla") and not value
        if str(key).removeprefix("fsdp_") not in watched.read and not filled_in:
            raise UserError(f"fsdp_config: nothing reads {key!r}. {nearest(str(key), watched.read)}")


def has_accelerator(use_cpu: bool) -> bool:
    """Whether a run would have an accelerator."""
    return torch.accelerator.is_available() and not use_cpu
