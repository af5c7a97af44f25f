"""Every key of a recipe changes what a run does, or is refused by name."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
import torch
import transformers
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from conftest import tiny_config
from mmpo.cli.train import recipe_and_flags
from mmpo.data import Source, load, piecewise, to_row
from mmpo.errors import UserError
from mmpo.evaluate.health.settings import Health
from mmpo.methods import CATALOGUE, another, build
from mmpo.models import packed
from mmpo.models.load import mixed_precision
from mmpo.models.lora import IDLE_LORA, adapted
from mmpo.recipe import Recipe, Shape, make_recipe
from mmpo.recipe.keys import FROM_PYTHON, IDLE_KEYS, OTHER_NAMES, RANGES, TRAINING_KEYS, default
from mmpo.recipe.partners import PARTNERS, TRACKERS, check_python
from mmpo.run.setup import from_recipe
from mmpo.train import train, train_recipe
from mmpo.types import Evidence, Method, Reading
from records import equipped, graded, said, voted, with_people
from tiny import RICH, ROWS, VOICED, plain, rows_file, saved

# ---------------------------------------------------------------------------------------------- a run, and what is seen


@dataclass
class Seen:
    """What a run left and did."""

    folder: Path
    logs: list[dict[str, float]] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    reads: int = 0
    inside: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "model.safetensors")

    @property
    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.folder / "run.json").read_text())


class Watch(TrainerCallback):
    """Looks at a run from the inside: the shapes that the model reads, how often a layer runs, what holds meanwhile."""

    def __init__(self, seen: Seen) -> None:
        self.seen, self.hooks = seen, []

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any, train_dataloader: Any, **more: Any
    ) -> None:
        layers = [m for name, m in model.named_modules() if name.endswith("mlp")]
        first = next(m for name, m in model.named_modules() if name.endswith("embed_tokens"))
        self.seen.inside = {
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "verbosity": transformers.logging.get_verbosity(),
            "hooks": sum(len(module._forward_hooks) for module in model.modules()),
            "steps": state.max_steps,
            "batches": len(train_dataloader),
        }
        self.hooks = [
            first.register_forward_hook(self._shape),
            *(x.register_forward_pre_hook(self._read) for x in layers),
        ]

    def _shape(self, module: Any, inputs: Any, output: Any) -> None:
        self.seen.shapes.append(tuple(inputs[0].shape))

    def _read(self, module: Any, inputs: Any) -> None:
        self.seen.reads += module.training

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.seen.logs = [*state.log_history]
        self.seen.inside |= {"best": (state.best_global_step, state.best_metric), "taken": state.global_step}
        for hook in self.hooks:
            hook.remove()


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any, tiny_policy: Any, tiny_reward: Any, tiny_tokenizer: Any) -> dict[str, str]:
    """Folders of models, and files of rows."""
    folder, tokenizer = tmp_path_factory.mktemp("base"), plain(tiny_tokenizer)
    dropping = tiny_reward(0)
    dropping.config.attention_dropout = 0.3
    votes = [{"prompt": row["prompt"], "responses": row["responses"][:2], "votes": [0, 0, 1]} for row in ROWS]
    return {
        "reward": saved(tiny_reward(0), tokenizer, folder / "reward"),
        "other": saved(tiny_reward(1), tokenizer, folder / "other"),
        "dropping": saved(dropping, tokenizer, folder / "dropping"),
        "policy": saved(tiny_policy(0), tokenizer, folder / "policy"),
        "teacher": saved(tiny_policy(1), tokenizer, folder / "teacher"),
        "second": saved(tiny_policy(2), tokenizer, folder / "second"),
        "rows": rows_file(folder),
        "less": rows_file(folder, ROWS[:4], "less.jsonl"),
        "bad": rows_file(folder, [*ROWS, {"prompt": "no responses"}], "bad.jsonl"),
        "rollouts": rows_file(folder, [to_row(datum) for datum in RICH], "rollouts.jsonl"),
        "voiced": rows_file(folder, [to_row(datum) for datum in VOICED], "voiced.jsonl"),
        "liked": rows_file(folder, [{**row, "rating": 3} for row in ROWS], "liked.jsonl"),
        "votes": rows_file(folder, votes, "votes.jsonl"),
        "cache": str(folder / "cache"),
    }


POLICY = {"model": "@policy", "method": {"name": "mmpo", "gamma": 0.3}}
TRACKER = """
__version__ = "9"
calls = {}
class Config(dict):
    def update(*given, **more): pass
config = Config()
class context_vars:
    class current_space_id:
        def get(): return calls["space_id"]
def init(**given): calls.update(given)
def log(*given, **more): pass
def finish(): pass
def freeze(**given): calls["frozen"] = given["new_space_id"]
"""


@pytest.fixture(scope="module")
def runs(base: dict[str, str], tmp_path_factory: Any) -> Callable[..., Seen]:
    """``run(**keys)``: a short run with these keys, done once."""
    done: dict[str, Seen] = {}

    def run(**more: Any) -> Seen:
        name = json.dumps(more, sort_keys=True, default=str)
        if name not in done:
            done[name] = one_run(content(base, more), tmp_path_factory.mktemp("run"))
        return done[name]

    return run


def content(base: Mapping[str, str], more: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe of four steps; ``@name`` stands for a folder or file of ``base``."""
    short = {
        "model": "@reward",
        "method": {"name": "mmpo_reward", "gamma": 0.3},
        "data": "@rows",
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "max_length": 96,
        "seed": 5,
        "use_cpu": True,
        "disable_tqdm": True,
        **more,
    }
    return placed({key: value for key, value in short.items() if value is not None}, base)


def placed(value: Any, base: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: placed(one, base) for key, one in value.items()}
    if isinstance(value, list):
        return [placed(one, base) for one in value]
    return base[value[1:]] if isinstance(value, str) and value.startswith("@") else value


def one_run(keys: Mapping[str, Any], folder: Path) -> Seen:
    folder = folder / "run"
    seen = Seen(folder)
    try:
        train_recipe(make_recipe({"output_dir": str(folder), **keys}), [Watch(seen)])
    finally:
        torch.use_deterministic_algorithms(False)
        transformers.logging.set_verbosity_warning()
    return seen


# ---------------------------------------------------------------------------------------------- what is looked at


def weights(seen: Seen) -> Any:
    return {name: weight.double().sum().item() for name, weight in seen.weights.items()}


def rates(seen: Seen) -> Any:
    return [log["learning_rate"] for log in seen.logs if "learning_rate" in log]


def logged(seen: Seen) -> Any:
    """The steps that were logged, and under which names."""
    return [(log["step"], sorted(log)) for log in seen.logs if "loss" in log]


def evaluated(seen: Seen) -> Any:
    return [
        (log["step"], log["eval_loss"], log.get("eval_rewards/accuracies")) for log in seen.logs if "eval_loss" in log
    ]


def files(seen: Seen) -> Any:
    return seen.files


def shapes(seen: Seen) -> Any:
    return seen.shapes


def reads(seen: Seen) -> Any:
    return seen.reads


def inside(name: str) -> Callable[[Seen], Any]:
    return lambda seen: seen.inside[name]


def recorded(name: str) -> Callable[[Seen], Any]:
    return lambda seen: seen.record[name]


@dataclass(frozen=True)
class Shown:
    """A key set to a value, beside other keys, and what it changes."""

    value: Any
    look: Callable[[Seen], Any]
    beside: dict[str, Any] = field(default_factory=dict)


EVAL = {"eval_data": "@less", "eval_strategy": "steps", "eval_steps": 1}
BEST = {**EVAL, "save_steps": 1, "load_best_model_at_end": True, "learning_rate": 0.1}
LOSING = {"optim": "sgd", "learning_rate": 30.0, "max_grad_norm": 100.0}

SHOWN: dict[str, Shown] = {
    # how long, in which batches, how fast
    "num_train_epochs": Shown(1, inside("taken"), {"max_steps": None}),
    "max_steps": Shown(2, inside("taken")),
    "per_device_train_batch_size": Shown(3, weights),
    "gradient_accumulation_steps": Shown(2, weights),
    "learning_rate": Shown(1e-3, weights),
    "lr_scheduler_type": Shown("cosine", weights),
    "lr_scheduler_kwargs": Shown({"num_cycles": 3}, weights, {"lr_scheduler_type": "cosine_with_restarts"}),
    "warmup_steps": Shown(2, weights),
    "optim": Shown("adafactor", weights),
    "optim_args": Shown("momentum=0.5", weights, {"optim": "sgd"}),
    "weight_decay": Shown(0.5, weights),
    "adam_beta1": Shown(0.5, weights),
    "adam_beta2": Shown(0.5, weights),
    "adam_epsilon": Shown(1e-2, weights),
    "max_grad_norm": Shown(1e-4, weights, {"optim": "sgd"}),
    "neftune_noise_alpha": Shown(5.0, weights),
    "seed": Shown(6, weights),
    "data_seed": Shown(6, weights),
    "dataloader_drop_last": Shown(True, inside("batches"), {"per_device_train_batch_size": 4}),
    # how it is computed
    "bf16": Shown(True, weights),
    "gradient_checkpointing": Shown(True, reads),
    "gradient_checkpointing_kwargs": Shown({"every_n_layers": 2}, reads, {"gradient_checkpointing": True}),
    "activation_checkpointing": Shown(True, reads),
    "activation_checkpointing_kwargs": Shown({"every_n_layers": 2}, reads, {"activation_checkpointing": True}),
    "full_determinism": Shown(True, inside("deterministic")),
    "debug": Shown("underflow_overflow", inside("hooks")),
    # what is said and kept
    "logging_strategy": Shown("epoch", logged, {"logging_steps": None}),
    "logging_steps": Shown(1, logged),
    "logging_first_step": Shown(True, logged),
    "log_level": Shown("error", inside("verbosity")),
    "skip_memory_metrics": Shown(False, lambda seen: sorted(seen.record["metrics"])),
    "save_strategy": Shown("no", files),
    "save_steps": Shown(2, files),
    "save_total_limit": Shown(1, files, {"save_steps": 1}),
    "eval_strategy": Shown("epoch", evaluated, {"eval_data": "@less"}),
    "eval_steps": Shown(1, evaluated, {"eval_data": "@less", "eval_strategy": "steps"}),
    "eval_delay": Shown(2, evaluated, EVAL),
    "eval_on_start": Shown(True, evaluated, EVAL),
    "per_device_eval_batch_size": Shown(1, shapes, {**EVAL, "micro_batch_tokens": 10_000}),
    "load_best_model_at_end": Shown(True, weights, {**EVAL, **LOSING, "save_steps": 1}),
    "metric_for_best_model": Shown("rewards/margins", inside("best"), BEST),
    "greater_is_better": Shown(True, inside("best"), {**BEST, "metric_for_best_model": "loss"}),
    # our own keys
    "model": Shown("@other", weights),
    "method": Shown({"name": "bradley_terry"}, weights),
    "data": Shown("@less", weights),
    "eval_data": Shown("@less", lambda seen: sorted(seen.record["metrics"])),
    "reference": Shown("cached", recorded("reference"), POLICY),
    "reference_cache": Shown("@cache", recorded("reference_cache"), {**POLICY, "reference": "cached"}),
    "teacher": Shown("@second", weights, {"model": "@policy", "method": "dckd", "teacher": "@teacher"}),
    "teacher_reference": Shown(
        "@second",
        weights,
        {
            "model": "@policy",
            "method": "adpa",
            "teacher": "@teacher",
            "teacher_reference": "@policy",
            "data": "@rollouts",
        },
    ),
    "layout": Shown("padded", shapes),
    "micro_batch_tokens": Shown(40, shapes),
    "statistics": Shown(["entropy"], logged, POLICY),
    "voices": Shown(
        "subsets",
        weights,
        {"model": "@policy", "method": "lcpo", "data": {"path": "@voiced", "ignore": ["attributes"]}},
    ),
    "voice_weights": Shown(
        {"kind": 1.0},
        recorded("score"),
        {"model": "@policy", "method": "helpsteer2", "data": {"path": "@voiced", "attributes": "all"}},
    ),
    "head_learning_rate": Shown(0.1, weights, {"model": "@policy", "method": "spo", "data": "@rollouts"}),
    "lora": Shown({"r": 2}, files),
    "shape": Shown({"spread": 2}, shapes),
    "health": Shown(
        {"every": 2, "max_new_tokens": 4}, lambda seen: sorted({k for log in seen.logs for k in log}), POLICY
    ),
    "early_stopping_patience": Shown(1, inside("taken"), {**EVAL, **LOSING, "save_steps": 1}),
    "early_stopping_threshold": Shown(
        100.0, inside("taken"), {**EVAL, "early_stopping_patience": 1, "save_steps": 1, "learning_rate": 1e-4}
    ),
    "max_length": Shown(30, shapes),
    "max_prompt_length": Shown(5, shapes),
    "pad_token": Shown("<|new|>", lambda seen: json.loads((seen.folder / "config.json").read_text())["pad_token_id"]),
    "dtype": Shown("bfloat16", lambda seen: {weight.dtype for weight in seen.weights.values()}),
    "disable_dropout": Shown(False, weights, {"model": "@dropping"}),
}
"""Keys whose effect is seen in a run of four steps."""


@pytest.mark.parametrize("key", SHOWN)
def test_a_key_changes_what_a_run_does(key: str, runs: Callable[..., Seen]) -> None:
    shown = SHOWN[key]
    without, with_it = runs(**shown.beside), runs(**{**shown.beside, key: shown.value})
    assert shown.look(with_it) != shown.look(without)


# ---------------------------------------------------------------------------------------------- what needs a device

BY_DEVICE = {"fp16", "tf32", "dataloader_pin_memory", "torch_empty_cache_steps", "ddp_timeout", "use_cpu"}
BY_PROCESSES = {
    "ddp_backend",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_find_unused_parameters",
    "ddp_static_graph",
    "fsdp",
    "fsdp_config",
    "deepspeed",
    "log_level_replica",
}
BY_LOADER = {
    "dataloader_num_workers": 2,
    "dataloader_prefetch_factor": 3,
    "dataloader_persistent_workers": True,
    "dataloader_multiprocessing_context": "spawn",
}
BY_COMPILER = {"torch_compile", "torch_compile_backend", "torch_compile_mode"}


def made(base: Mapping[str, str], **more: Any) -> Recipe:
    return make_recipe({"output_dir": "unused", **content(base, more)})


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were an accelerator, up to where it would be used."""
    monkeypatch.setattr("mmpo.recipe.recipe.has_accelerator", lambda use_cpu: not use_cpu)


class Begun(SimpleNamespace):
    """What a process of a run is begun with, by the name of ``accelerate.PartialState``."""

    given: dict[str, Any] = {}  # noqa: RUF012 (one for the class, as of the original)

    @classmethod
    def of(cls, monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> dict[str, Any]:
        true = transformers.training_args.PartialState

        def state(*args: Any, **given: Any) -> Any:
            cls.given = given
            return true(cpu=True)

        monkeypatch.setattr(transformers.training_args, "PartialState", state)
        TrainingArguments(**recipe.training)
        return cls.given


def test_keys_of_a_device_reach_it(
    device: None, base: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = {"use_cpu": False}
    half = made(base, fp16=True, **there).arguments()
    assert half.mixed_precision == "fp16" and made(base, **there).arguments().mixed_precision == "no"
    with mixed_precision(half):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float16
    switched: list[bool] = []
    monkeypatch.setattr(transformers.training_args, "is_torch_tf32_available", lambda: True)
    monkeypatch.setattr(transformers.training_args, "enable_tf32", switched.append)
    for value in (True, False):
        made(base, tf32=value, **there).arguments()
    assert switched == [True, False]
    assert not made(base).arguments().dataloader_pin_memory  # use_cpu: true
    assert made(base, dataloader_pin_memory=True, **there).arguments().dataloader_pin_memory
    assert not made(base, dataloader_pin_memory=False, **there).arguments().dataloader_pin_memory
    assert Begun.of(monkeypatch, made(base, ddp_timeout=77, **there))["timeout"].total_seconds() == 77
    emptied: list[None] = []
    monkeypatch.setattr(transformers.trainer, "clear_device_cache", lambda: emptied.append(None))
    one_run(content(base, {"torch_empty_cache_steps": 2, **there}), tmp_path)
    assert len(emptied) == 2


@pytest.mark.parametrize("key", sorted(BY_DEVICE - {"use_cpu"}))
def test_keys_of_a_device_are_refused_without_one(key: str, base: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"recipe: {key} has no effect without an accelerator"):
        made(base, **{key: True if key in ("fp16", "tf32", "dataloader_pin_memory") else 3})


def test_keys_of_many_processes_reach_them(
    base: dict[str, str], monkeypatch: pytest.MonkeyPatch, tiny_reward: Any
) -> None:
    given = {"bucket_cap_mb": 7, "broadcast_buffers": False, "find_unused_parameters": True, "static_graph": True}
    for name, value in given.items():
        trainer = transformers.Trainer(tiny_reward(0), made(base, **{f"ddp_{name}": value}).arguments())
        assert getattr(trainer.accelerator.ddp_handler, name) == value
        plain = transformers.Trainer(tiny_reward(0), made(base).arguments())
        assert getattr(plain.accelerator.ddp_handler, name) != value or name == "find_unused_parameters"
    quiet = transformers.Trainer(tiny_reward(0), made(base, ddp_find_unused_parameters=False).arguments())
    assert not quiet.accelerator.ddp_handler.find_unused_parameters
    assert Begun.of(monkeypatch, made(base, ddp_backend="gloo"))["backend"] == "gloo"
    monkeypatch.setattr(TrainingArguments, "local_process_index", 1)
    levels = [made(base, **more).arguments().get_process_log_level() for more in ({}, {"log_level_replica": "error"})]
    assert levels == [transformers.logging.WARNING, transformers.logging.ERROR]


def test_sharding_reaches_its_plugin_and_needs_processes(base: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="fsdp divides a model among processes, and there is one; start it with"):
        made(base, fsdp=True).arguments()
    with pytest.raises(UserError, match="fsdp_config has no effect without fsdp: true"):
        made(base, fsdp_config={"cpu_offload": True})
    with pytest.raises(UserError, match=r"fsdp_config: nothing reads 'cpu_ofload'. Did you mean 'cpu_offload'"):
        made(base, fsdp=True, fsdp_config={"cpu_ofload": True})
    for config, name, value in (
        ({"cpu_offload": True}, "cpu_offload", True),
        ({"reshard_after_forward": False}, "reshard_after_forward", False),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, "state_dict_type", "SHARDED_STATE_DICT"),
    ):
        args = TrainingArguments(**made(base, fsdp=True, fsdp_config=config).training)
        assert args.fsdp_plugin_args[name] == value
        assert TrainingArguments(**made(base, fsdp=True).training).fsdp_plugin_args.get(name) != value


@pytest.mark.skipif("deepspeed" in sys.modules or shutil.which("deepspeed") is not None, reason="deepspeed is there")
def test_deepspeed_is_asked_for_where_it_is_absent(base: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"(?i)deepspeed"):
        made(base, deepspeed={"zero_optimization": {"stage": 2}}).arguments()


@pytest.mark.parametrize("key", BY_LOADER)
def test_keys_of_the_loader_reach_it(key: str, base: dict[str, str]) -> None:
    def loader(**more: Any) -> Any:
        recipe = made(base, **more)
        return from_recipe(recipe).trainer(recipe.arguments()).get_train_dataloader()

    workers = {"dataloader_num_workers": 1} if key != "dataloader_num_workers" else {}
    found = [loader(**workers, **more) for more in ({}, {key: BY_LOADER[key]})]
    name = key.removeprefix("dataloader_")
    said = [getattr(one, name) for one in found]
    assert said[0] != said[1]
    assert said[1] == BY_LOADER[key] or said[1].get_start_method() == BY_LOADER[key]


def test_keys_of_the_compiler_reach_it(
    base: dict[str, str], runs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, str | None]] = []

    def compiler(model: Any, backend: str, mode: str | None) -> bool:
        asked.append((backend, mode))
        return True

    monkeypatch.setattr(packed, "compile_layers", compiler)
    for n, more in enumerate(({}, {"torch_compile_backend": "aot_eager"}, {"torch_compile_mode": "max-autotune"})):
        one_run(content(base, {"torch_compile": True, "max_steps": 1, **more}), tmp_path / str(n))
    assert asked == [("inductor", None), ("aot_eager", None), ("inductor", "max-autotune")]


# ---------------------------------------------------------------------------------------------- trackers


def test_keys_of_a_tracker_reach_it(base: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trackio.py").write_text(TRACKER)
    monkeypatch.syspath_prepend(tmp_path)
    given = {
        "run_name": "mine",
        "project": "ours",
        "trackio_space_id": "a/space",
        "trackio_bucket_id": "a/bucket",
        "trackio_static_space_id": "a/still",
    }
    with pytest.raises(UserError, match="run_name has no effect without report_to: wandb or trackio"):
        made(base, run_name="mine")
    one_run(content(base, {"report_to": "trackio", **given, "max_steps": 1}), tmp_path)
    calls = sys.modules.pop("trackio").calls
    assert calls["name"] == "mine" and calls["project"] == "ours" and calls["space_id"] == "a/space"
    assert calls["bucket_id"] == "a/bucket" and calls["frozen"] == "a/still"


def test_the_readers_of_a_trackers_keys_are_those_of_transformers() -> None:
    module = transformers.integrations.integration_utils
    source = Path(inspect.getfile(module)).read_text()
    told = {
        kind.name: ast.get_source_segment(source, kind)
        for kind in ast.parse(source).body
        if isinstance(kind, ast.ClassDef)
    }
    for key, known in TRACKERS.items():
        read = {kind for kind, text in told.items() if text and re.search(rf"\bargs\.{key}\b", text)}
        assert {*known} == {name for name, kind in module.INTEGRATION_TO_CALLBACK.items() if kind.__name__ in read}


# ---------------------------------------------------------------------------------------------- families of values


@pytest.mark.parametrize("kind", [one.value for one in SchedulerType])
def test_every_schedule_is_one_of_its_own(kind: str, runs: Callable[..., Seen]) -> None:
    """Its learning rates are those of no other; or it says what it lacks."""
    kwargs = {"cosine_with_min_lr": {"min_lr": 1e-3}, "cosine_warmup_with_min_lr": {"min_lr": 1e-3}}
    kwargs["warmup_stable_decay"] = {"num_decay_steps": 2}
    more: dict[str, Any] = {"lr_scheduler_type": kind, "logging_steps": 1}
    more |= {"lr_scheduler_kwargs": kwargs[kind]} if kind in kwargs else {}
    more |= {"warmup_steps": 2} if kind in ("constant_with_warmup", "inverse_sqrt") else {}
    more |= EVAL if kind in ("reduce_lr_on_plateau", "greedy") else {}
    if kind in ("reduce_lr_on_plateau", "greedy"):
        more |= {"lr_scheduler_kwargs": {"patience": 0, "threshold": 10.0, "threshold_mode": "abs"}}
    seen = rates(runs(**more))
    assert len(seen) == 4
    others = [
        rates(runs(logging_steps=1, lr_scheduler_type=other)) for other in ("linear", "constant") if other != kind
    ]
    assert seen not in others


HERE = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")


@pytest.mark.parametrize("name", [one.value for one in OptimizerNames])
def test_every_optimiser_is_one_of_its_own_or_refused(
    name: str, base: dict[str, str], runs: Callable[..., Seen]
) -> None:
    if name not in HERE:
        with pytest.raises(UserError, match=f"recipe: optim is {name!r}: "):
            made(base, optim=name)
        return
    seen = weights(runs(optim=name))
    assert all(weights(runs(optim=other)) != seen for other in HERE if other != name and "adamw" not in other + name)


# ---------------------------------------------------------------------------------------------- LoRA

LORA: dict[str, tuple[Any, dict[str, Any]]] = {
    "r": (2, {}),
    "lora_alpha": (3, {}),
    "lora_dropout": (0.5, {}),
    "target_modules": (["q_proj"], {}),
    "exclude_modules": (["q_proj"], {}),
    "target_parameters": (["mlp.up_proj.weight"], {"target_modules": ["q_proj"]}),
    "use_rslora": (True, {}),
    "use_dora": (True, {}),
    "modules_to_save": (["lm_head"], {"target_modules": ["q_proj"]}),
    "trainable_token_indices": ([70, 71], {}),
    "init_lora_weights": ("gaussian", {}),
    "layers_to_transform": ([0], {"target_modules": ["q_proj"]}),
    "layers_pattern": ("blocks", {"target_modules": ["q_proj"], "layers_to_transform": [0]}),
    "rank_pattern": ({"q_proj": 2}, {}),
    "alpha_pattern": ({"q_proj": 2}, {}),
    "ensure_weight_tying": (True, {"modules_to_save": ["lm_head"]}),
}


def trained_lora(tokenizer: Any, lora: Mapping[str, Any]) -> Any:
    """The loss of two steps with an adapter, and after; or why there is none."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        tiny_config(tokenizer, tie_word_embeddings="ensure_weight_tying" in str(lora))
    )
    ids = torch.arange(70, 80)[None]
    try:
        model = adapted(model, lora, "policy").train()
    except UserError as error:
        return str(error)
    torch.manual_seed(1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    losses = []
    for _ in range(3):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("key", LORA)
def test_a_key_of_lora_changes_the_adapter(key: str, tiny_tokenizer: Any) -> None:
    value, beside = LORA[key]
    without = {**beside} if key != "ensure_weight_tying" else {**beside, "ensure_weight_tying": False}
    assert trained_lora(tiny_tokenizer, {**beside, key: value}) != trained_lora(tiny_tokenizer, without)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank_pattern": {"z_proj": 2}}, "rank_pattern names 'z_proj', which the model does not have. Did you mean"),
        ({"modules_to_save": ["score"]}, "modules_to_save names 'score'"),
        ({"exclude_modules": ["zzz"]}, "exclude_modules names 'zzz'"),
        ({"target_modules": ["q_proj", "zzz"]}, "target_modules names 'zzz'"),
        ({"rank_pattern": {"q_proj": 2}, "target_modules": ["v_proj"]}, "rank_pattern names 'q_proj'"),
        ({"layers_pattern": "layers"}, "layers_pattern has no effect without layers_to_transform"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying has no effect without"),
        ({"ensure_weight_tying": True, "modules_to_save": ["lm_head"]}, "the model ties no weights"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', after which the model without its adapter"),
        ({"init_lora_weights": 1.0}, "init_lora_weights is 1.0"),
    ],
)
def test_a_key_of_lora_that_fits_nothing_is_refused(lora: dict[str, Any], message: str, tiny_policy: Any) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        adapted(tiny_policy(0), lora, "policy")


@pytest.mark.parametrize("key", IDLE_LORA)
def test_an_idle_key_of_lora_is_refused(key: str, base: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"recipe: lora: '{key}' may not be set: "):
        made(base, **POLICY, lora={key: "x"})


# ---------------------------------------------------------------------------------------------- shape, health, sources

SHAPE = {"rescale": "minmax", "spread": 2, "max_responses": 2, "max_pairs": 1}
HEALTH: dict[str, Any] = {
    "every": 2,
    "prompts": 2,
    "samples": 2,
    "max_new_tokens": 2,
    "gold": "@other",
}


@pytest.mark.parametrize("key", SHAPE)
def test_a_key_of_shape_changes_the_weights(key: str, runs: Callable[..., Seen]) -> None:
    assert weights(runs(shape={key: SHAPE[key]})) != weights(runs())


def looked(seen: Seen) -> Any:
    """All that the looks at what the policy writes have said, but how long they took."""
    told = json.loads((seen.folder / "health.json").read_text())
    return [{key: value for key, value in look.items() if key != "seconds"} for look in told["looks"]]


@pytest.mark.parametrize("key", HEALTH)
def test_a_key_of_health_changes_what_is_looked_at(key: str, runs: Callable[..., Seen]) -> None:
    beside = {"every": 4, "prompts": 3, "max_new_tokens": 6} if key != "on_stop" else {}
    wild = (
        {**POLICY, "optim": "sgd", "learning_rate": 3e3, "max_grad_norm": 0, "max_steps": 12}
        if key == "on_stop"
        else POLICY
    )
    assert looked(runs(**wild, health={**beside, key: HEALTH[key]})) != looked(runs(**wild, health=beside))


PAIR = {"prompt": "2 + 2?", "chosen": "<MASK>4</MASK>", "rejected": "5"}
ATTRIBUTES = {"correctness": 1, "coherence": 4, "complexity": 1, "verbosity": 1}
HELPED = [{"prompt": "p", "response": "a", "helpfulness": 4, **ATTRIBUTES}]
HELPED += [{"prompt": "p", "response": "b", "helpfulness": 1, **ATTRIBUTES, "correctness": 3}]
SOURCE: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "split": ([{**ROWS[0], "split": "train"}, {**ROWS[1], "split": "test"}], "train"),
    "weight": (ROWS, 2.0),
    "limit": (ROWS, 2),
    "margin": ([{**PAIR, "margin": 2.0}], "gap"),
    "grade": (HELPED, "correctness"),
    "attributes": ([{**row, "attributes": {"kind": row["scores"]}} for row in ROWS], "all"),
    "marks": ([PAIR], "tags"),
    "feedback": ([{"prompt": "p", "responses": ["a", "b"]}], "optional"),
    "subset": (ROWS, "talk"),
}


def read(rows: list[dict[str, Any]], folder: Path, **more: Any) -> Any:
    try:
        loaded = load([Source(rows_file(folder, rows), **more)])
    except UserError as error:
        return str(error)
    return loaded.data


@pytest.mark.parametrize("key", SOURCE)
def test_a_key_of_a_source_changes_the_data(key: str, tmp_path: Path) -> None:
    rows, value = SOURCE[key]
    assert read(rows, tmp_path, **{key: value}) != read(rows, tmp_path)
    if key not in ("weight", "limit", "feedback", "subset"):
        said = read([{"prompt": "p", "responses": ["a", "b"], "scores": [1, 2]}], tmp_path, **{key: value})
        assert isinstance(said, str) and "leave it out" in said


def test_a_column_that_looks_like_feedback_is_ignored_by_name(base: dict[str, str], runs: Callable[..., Seen]) -> None:
    with pytest.raises(UserError, match="rating"):
        runs(data="@liked")
    assert runs(data={"path": "@liked", "ignore": ["rating"]}).files


def test_training_data_have_feedback(base: dict[str, str]) -> None:
    with pytest.raises(UserError, match="data: feedback: optional is for mmpo score"):
        made(base, data={"path": "@rows", "feedback": "optional"})


# ---------------------------------------------------------------------------------------------- our other keys


def test_a_run_lies_in_its_output_dir(base: dict[str, str], tmp_path: Path) -> None:
    seen = one_run(content(base, {"max_steps": 1}), tmp_path / "here")
    assert {"model.safetensors", "run.json"} <= seen.files and not (tmp_path / "there").exists()


def test_progress_is_shown_or_not(base: dict[str, str]) -> None:
    for silent in (True, False):
        recipe = made(base, disable_tqdm=silent)
        shown = from_recipe(recipe).trainer(recipe.arguments()).callback_handler.callback_list
        assert ("ProgressCallback" in shown) != silent


def test_a_device_can_be_declined(device: None, base: dict[str, str]) -> None:
    for declined in (True, False):
        recipe = made(base, use_cpu=declined)
        assert recipe.arguments().use_cpu == declined and recipe.arguments().dataloader_pin_memory != declined


def test_task_is_held_against_the_method(base: dict[str, str]) -> None:
    assert made(base, task="reward").task == "reward"
    with pytest.raises(UserError, match="method 'mmpo_reward' trains a reward model, but task is 'policy'"):
        made(base, task="policy")


def test_bad_rows_stop_a_run_or_are_counted(base: dict[str, str], runs: Callable[..., Seen]) -> None:
    with pytest.raises(UserError, match=r"bad\.jsonl"):
        runs(data="@bad")
    with pytest.raises(UserError, match="max_bad_rows"):
        runs(data="@bad", on_bad_row="drop", max_bad_rows=0)
    seen = runs(data="@bad", on_bad_row="drop", max_bad_rows=1)
    assert [reason["count"] for reason in seen.record["data"]["dropped"].values()] == [1]


def test_prepared_data_are_kept_where_asked_and_made_by_as_many(
    base: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    true = piecewise.in_pieces

    def in_pieces(tasks: Any, work: Any, folder: Path, workers: int, *more: Any, **further: Any) -> Any:
        asked.append(workers)
        return true(tasks, work, folder, workers, *more, **further)

    monkeypatch.setattr(piecewise, "in_pieces", in_pieces)
    from_recipe(made(base, data_cache=str(tmp_path / "kept"), data_workers=3))
    assert set(asked) == {3} and list((tmp_path / "kept").rglob("*.arrow"))


def test_code_of_a_model_runs_where_it_is_asked_for(base: dict[str, str], tmp_path: Path) -> None:
    folder, marker = shutil.copytree(base["reward"], tmp_path / "custom"), tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "own.Own"}}))
    lines = "from transformers import LlamaConfig\nclass Own(LlamaConfig):\n    pass\n"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n{lines}")
    for trusted in (False, True):
        with contextlib.suppress(UserError):
            from_recipe(made(base, model=str(folder), trust_remote_code=trusted))
        assert marker.exists() == trusted


# ---------------------------------------------------------------------------------------------- methods


SLOW: dict[tuple[str, str], tuple[float, dict[str, Any]]] = {
    ("spa", "quantile"): (0.5, {"max_steps": 8, "per_device_train_batch_size": 6}),
    ("spa", "lam"): (5.0, {"quantile": 0.5, "max_steps": 8, "per_device_train_batch_size": 6}),
    ("crm", "noise_rate"): (0.4, {"max_steps": 8, "per_device_train_batch_size": 6, "window": 20.0}),
    ("crm", "window"): (2.0, {}),
    ("meta_rm", "eta"): (0.1, {}),
    ("ranklist_lse", "min_gap"): (2.5, {}),
    ("hypo", "kl"): (1.0, {}),
    ("rationale_dpo", "gamma"): (1.0, {}),
    ("rationale_dpo_released", "gamma"): (1.0, {}),
    ("rationale_orpo", "gamma"): (3.0, {}),
    ("spo", "degree"): (2.0, {}),
    ("mapl", "inter"): (3.0, {}),
    ("mapl_reward", "inter"): (3.0, {}),
    ("maxmin_reward", "fade"): (1.0, {"model": "@policy", "max_steps": 12}),
    ("mmpo_groups", "fade"): (1.0, {"model": "@policy", "max_steps": 12}),
    ("micro_people", "fade"): (1.0, {"model": "@policy", "max_steps": 8}),
    ("maxmin_mmpo", "step"): (2.0, {"voices": "attributes", "data": {"path": "@voiced", "attributes": "all"}}),
    ("more", "momentum"): (0.2, {"voices": "annotators", "max_steps": 8}),
    ("mmpo_more", "momentum"): (0.2, {"voices": "annotators", "max_steps": 8}),
    ("orchestrator", "tau"): (0.1, {"model": "@policy", "data": {"path": "@voiced", "attributes": "all"}}),
}
"""Parameters of what random evidence does not have: rationales, variants, contrasts, attributes that differ, a memory
of many steps."""

SOURCES = (lambda make: said(make, 3), lambda make: graded(make, 4, 3), lambda make: voted(make, 4, 3))


def told(method: Method, evidence: Evidence, reading: Reading) -> list[float]:
    """Losses and gradients of two steps, between which the method remembers."""
    leaf = reading.require("rewards" if method.task == "reward" else "logps")
    reading, memory, out = equipped(method, reading), method.memory(4), []
    for _ in range(2):
        seen = replace(with_people(evidence) if method.voices else evidence, memory=memory)
        outcome = method(seen, reading)
        (slope,) = torch.autograd.grad(outcome.loss, leaf, allow_unused=True, retain_graph=True)
        out += outcome.losses.tolist() + ([] if slope is None else slope.flatten().tolist())
        memory = method.remember(memory, method.observe(seen, reading))
    return out


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_parameter_of_a_method_changes_its_loss(name: str, make_evidence: Any, make_reading: Any) -> None:
    for key, value in CATALOGUE[name].parameters.items():
        other = build(name, **{key: another(value)})
        found = [
            told(other, source(make_evidence), make_reading(4, 3))
            != told(build(name), source(make_evidence), make_reading(4, 3))
            for source in SOURCES
        ]
        assert any(found) or (name, key) in SLOW, key


@pytest.mark.parametrize(("name", "key"), SLOW)
def test_a_parameter_of_a_method_changes_its_run(name: str, key: str, runs: Callable[..., Seen]) -> None:
    value, more = SLOW[name, key]
    method = {"name": name, **{k: v for k, v in more.items() if k in CATALOGUE[name].parameters}}
    beside = {"model": f"@{build(name).task}", "data": "@rollouts", "save_strategy": "no"}
    beside |= {k: v for k, v in more.items() if k not in method}
    assert weights(runs(method={**method, key: value}, **beside)) != weights(runs(method=method, **beside))


# ---------------------------------------------------------------------------------------------- what is refused


# A value of each that asks for something, and that TrainingArguments take.
ASKING: dict[str, Any] = {
    "do_predict": True,
    "dataloader_in_order": False,
    "remove_unused_columns": 7,
    "do_train": 7,
    "restore_callback_states_from_checkpoint": 7,
    "logging_nan_inf_filter": False,
    "average_tokens_across_devices": False,
    "eval_do_concat_batches": False,
    "label_smoothing_factor": 0.1,
    "train_sampling_strategy": "sequential",
    "length_column_name": "size",
    "include_for_metrics": ["inputs"],
    "eval_accumulation_steps": 2,
    "label_names": ["y"],
    "optim_target_modules": ["q_proj"],
    "accelerator_config": {"split_batches": True},
    "parallelism_config": "x",
    "liger_kernel_config": {"rope": False},
    "local_rank": 3,
    "log_on_each_node": False,
    **dict.fromkeys(("hub_model_id", "hub_revision", "hub_token"), "secret/x"),
    "hub_strategy": "end",
    "resume_from_checkpoint": "x",
}


@pytest.mark.parametrize("key", IDLE_KEYS)
def test_an_idle_key_is_refused_with_what_to_do_instead(key: str, base: dict[str, str]) -> None:
    refused = re.escape(f"{key!r} may not be set: {IDLE_KEYS[key]}; leave it out")
    value = ASKING.get(key, True)
    with pytest.raises(UserError, match=f"^recipe: {refused}$"):
        made(base, **{key: value})
    args = TrainingArguments("unused", use_cpu=True)
    setattr(args, key, value)
    if key not in FROM_PYTHON:
        with pytest.raises(UserError, match=f"^{refused}$"):
            check_python(args, (), ())


def test_what_happens_anyway_may_be_asked_for(base: dict[str, str]) -> None:
    for key in {*IDLE_KEYS} & {*TRAINING_KEYS}:
        assert made(base, **{key: default(key)}).training == made(base).training
    usual = {"remove_unused_columns": False, "do_train": True, "resume_from_checkpoint": None}
    assert made(base, **usual).training == made(base).training
    check_python(TrainingArguments("unused", use_cpu=True, remove_unused_columns=False, do_train=True), (), ())


def test_all_that_is_wrong_is_named_at_once(base: dict[str, str]) -> None:
    with pytest.raises(UserError) as refused:
        made(base, push_to_hub=True, lora_r=8, use_liger_kernel=True, lerning_rate=1e-5, seed=-1, beta=0.1)
    said = str(refused.value)
    for part in (
        "'push_to_hub' may",
        "write lora: {r: 16",
        "'use_liger",
        "mean 'learning_rate'",
        "seed is -1",
        "method.beta",
    ):
        assert part in said
    assert said.count("recipe: ") == 1


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_a_name_from_elsewhere_leads_to_ours(name: str, base: dict[str, str]) -> None:
    with pytest.raises(UserError, match=re.escape(f"recipe: {name!r} is no key of a recipe; {OTHER_NAMES[name]}")):
        made(base, **{name: 1})
    found = re.match(r"write (\w+)", OTHER_NAMES[name])
    assert found is None or found[1] in {*TRAINING_KEYS, *Recipe.model_fields}
    assert name not in {*TRAINING_KEYS, *Recipe.model_fields}


def test_a_ratio_of_warmup_is_a_share_of_the_steps(base: dict[str, str]) -> None:
    assert made(base, warmup_ratio=0.25).training == made(base, warmup_steps=0.25).training
    for value in (1, -0.1, True, "x"):
        with pytest.raises(UserError, match=r"warmup_ratio is .*; give a share of the run, below 1"):
            made(base, warmup_ratio=value)
    with pytest.raises(UserError, match="warmup_ratio and warmup_steps say the same thing; give one"):
        made(base, warmup_ratio=0.25, warmup_steps=2)


def test_a_flag_that_says_yes_may_stand_alone() -> None:
    words = ["--bf16", "--seed", "3", "--trust-remote-code", "--disable_dropout=false", "--gradient_checkpointing"]
    said = {
        "bf16": True,
        "seed": 3,
        "trust_remote_code": True,
        "disable_dropout": False,
        "gradient_checkpointing": True,
    }
    assert recipe_and_flags(None, words) == (None, said)
    for key in ("seed", "report_to", "lora", "method.gamma"):
        with pytest.raises(UserError, match=f"--{key} has no value"):
            recipe_and_flags(None, [f"--{key}", "--bf16"])


def test_a_recipe_for_another_machine_is_held_to_what_that_has(base: dict[str, str]) -> None:
    """As of ``mmpo doctor --plan --plan-device``, which asks on a laptop what a GPU will do."""
    keys = {"output_dir": "unused", **content(base, {"tf32": True, "use_cpu": None})}
    assert make_recipe(keys, accelerator=True).training["tf32"]
    with pytest.raises(UserError, match="tf32 has no effect without an accelerator"):
        make_recipe(keys, accelerator=False)


# ---------------------------------------------------------------------------------------------- arguments from Python

PYTHON: list[tuple[dict[str, Any], str]] = [
    ({"eval_steps": 5}, "eval_steps has no effect without eval_strategy: steps"),
    ({"eval_strategy": "steps"}, "eval_strategy has no effect without eval_data"),
    ({"optim": "sgd", "adam_beta1": 0.8}, "adam_beta1 has no effect with optim: sgd; leave it out"),
    ({"max_steps": 2, "num_train_epochs": 1}, "both say how long the run is"),
    ({"lr_scheduler_type": "constant", "warmup_steps": 4}, "warmup_steps has no effect without a schedule"),
    ({"metric_for_best_model": "loss"}, "metric_for_best_model has no effect without load_best_model_at_end"),
    ({"fsdp": True}, "fsdp divides a model among processes, and there is one"),
    ({"accelerator_config": {"split_batches": True}}, "'accelerator_config' may not be set"),
]


@pytest.mark.parametrize(("more", "message"), PYTHON)
def test_arguments_from_python_are_held_to_the_same(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Before anything is loaded: there is no such model, and there are no such data."""
    with pytest.raises(UserError, match=message):
        train("no/model", "dpo", "no.jsonl", TrainingArguments(str(tmp_path), use_cpu=True, **more))


def test_usual_arguments_from_python_are_taken() -> None:
    held_out = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    for more in (
        {},
        held_out,
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 2, "warmup_steps": 0.1, "report_to": "none"},
        {"logging_first_step": True, "logging_steps": 1, "save_total_limit": 2, "bf16": True, "optim": "adafactor"},
        {"torch_compile": True, "debug": "underflow_overflow", "max_steps": 4, "lr_scheduler_type": "cosine"},
    ):
        check_python(TrainingArguments("unused", use_cpu=True, **more), ["x"] if "eval_strategy" in more else (), ())


def test_the_arguments_of_another_trainer_are_refused() -> None:
    """Such as the DPOConfig of TRL: its beta would go unread."""
    args = transformers.Seq2SeqTrainingArguments("unused", use_cpu=True)
    with pytest.raises(
        UserError, match="are a Seq2SeqTrainingArguments, of which nothing here reads generation_config"
    ):
        check_python(args, (), ())


ALONE: dict[str, Any] = {
    **{key: shown.value for key, shown in SHOWN.items()},
    **BY_LOADER,
    **dict.fromkeys(TRACKERS, "x"),
    **dict.fromkeys(BY_DEVICE, 3),
    "fp16": True,
    "tf32": True,
    "dataloader_pin_memory": True,
    "torch_compile_backend": "eager",
    "torch_compile_mode": "max-autotune",
    "fsdp_config": {"cpu_offload": True},
}


@pytest.mark.parametrize("key", PARTNERS)
def test_a_key_without_its_partner_is_refused_and_the_partner_named(key: str, base: dict[str, str]) -> None:
    apart: dict[str, dict[str, Any]] = {
        "logging_steps": {"logging_strategy": "epoch"},
        "save_steps": {"save_strategy": "epoch"},
        "save_total_limit": {"save_strategy": "no"},
        "warmup_steps": {"lr_scheduler_type": "constant"},
    }
    with pytest.raises(UserError, match=rf"recipe: {key} has no effect without .*; add that, or leave {key} out"):
        made(
            base,
            **{key: ALONE[key]},
            **({"logging_steps": None} | apart.get(key, {}) if key != "logging_steps" else apart[key]),
        )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0; Input should be greater than or equal"),
        ({"per_device_train_batch_size": True}, "per_device_train_batch_size is true; a number is needed"),
        ({"learning_rate": -1e-5}, "learning_rate is -1e-05; Input should be greater than 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; Input should be a finite number"),
        ({"max_steps": None, "num_train_epochs": 0}, "num_train_epochs is 0; Input should be greater than 0"),
        ({"max_steps": 0}, "max_steps is 0; .*give at least 1, or leave it out"),
        ({"num_train_epochs": 2}, "max_steps and num_train_epochs both say how long the run is; give one"),
        ({"seed": -1}, "seed is -1; Input should be greater than or equal to 0"),
        ({"warmup_steps": 1.5}, "warmup_steps is 1.5; .*neither a whole number nor a share below 1"),
        ({"warmup_steps": 4}, "warmup_steps is 4, but the run has 4 steps; give fewer, or a share such as 0.1"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type is 'cosin'. Did you mean 'cosine'"),
        ({"lr_scheduler_kwargs": {"cycles": 2}}, "the schedule 'linear' has no 'cycles'. It takes none"),
        (
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycle": 2}},
            "the schedule 'cosine' has no 'num_cycle'. Did you mean 'num_cycles'",
        ),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "needs lr_scheduler_kwargs: {num_decay_steps: ...}"),
        ({"lr_scheduler_type": "constant_with_warmup"}, "is constant without warmup_steps; add them"),
        ({"optim": "sgd", "adam_beta1": 0.8}, "adam_beta1 has no effect with optim: sgd; leave it out"),
        ({"optim": "adafactor", "adam_epsilon": 0.8}, "adam_epsilon has no effect with optim: adafactor"),
        ({"optim_args": "momentum=0.9"}, "optim_args: the optimiser adamw_torch_fused does not read 'momentum'"),
        ({"optim": "sgd", "optim_args": "momentu=0.9"}, "optim_args: the optimiser sgd does not read 'momentu'"),
        ({"optim": "sgd", "optim_args": "momentum=much"}, "optim is 'sgd': could not convert string to float: 'much'"),
        ({"gradient_checkpointing": True, "activation_checkpointing": True}, "are two names of one key; give one"),
        (
            {"torch_compile": True, "torch_compile_backend": "eager", "torch_compile_mode": "default"},
            "torch_compile_mode",
        ),
        ({"early_stopping_patience": 2}, "early_stopping_patience counts evaluations; add eval_data"),
        (
            {**EVAL, "load_best_model_at_end": True, "metric_for_best_model": "eval_health/answers/gold"},
            "health.every is missing; add health: {every: 0.1}",
        ),
        (
            {"shape": {"spread": 4, "max_responses": 8}},
            "max_responses would do nothing beside a spread that is no larger",
        ),
        ({"hub_token": "secret"}, "set HF_TOKEN in the environment"),
        ({"debug": "tpu_metrics_debug"}, "tpu_metrics_debug is for TPUs"),
        ({"report_to": "wandb"}, "wandb"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(more: dict[str, Any], message: str, base: dict[str, str]) -> None:
    with pytest.raises(UserError, match=message):
        made(base, **more).arguments()


def test_a_warmup_longer_than_the_data_is_refused(base: dict[str, str], runs: Callable[..., Seen]) -> None:
    with pytest.raises(UserError, match="warmup_steps is 9, but the run has 3 steps"):
        runs(warmup_steps=9, max_steps=None, num_train_epochs=1)


def test_a_rescaling_without_grades_is_refused(runs: Callable[..., Seen]) -> None:
    with pytest.raises(UserError, match="rescale changes grades, and the data have none; leave it out"):
        runs(data="@votes", shape={"rescale": "minmax"})


def test_dropout_that_the_model_does_not_have_is_refused(runs: Callable[..., Seen]) -> None:
    with pytest.raises(UserError, match="disable_dropout: false has no effect, since the model has no dropout"):
        runs(disable_dropout=False)


# ---------------------------------------------------------------------------------------------- nothing is left out


def test_quantised_weights_need_lora_and_bitsandbytes(base: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run on them gives is seen in test_quantized.py, where bitsandbytes is installed."""
    with pytest.raises(UserError, match=r"quantize: 8bit freezes the weights, .* add lora: \{r: 16\}"):
        made(base, **POLICY, quantize="8bit")
    monkeypatch.setattr("mmpo.models.quantized.find_spec", lambda name: None)
    with pytest.raises(UserError, match="quantize needs bitsandbytes"):
        from_recipe(made(base, **POLICY, quantize="8bit", lora={"r": 2}))


ELSEWHERE: dict[str, Callable[..., None]] = {
    "quantize": test_quantised_weights_need_lora_and_bitsandbytes,
    **dict.fromkeys(BY_DEVICE - {"use_cpu"}, test_keys_of_a_device_reach_it),
    **dict.fromkeys([key for key in BY_PROCESSES if key.startswith("ddp")], test_keys_of_many_processes_reach_them),
    **dict.fromkeys(BY_LOADER, test_keys_of_the_loader_reach_it),
    **dict.fromkeys(BY_COMPILER, test_keys_of_the_compiler_reach_it),
    **dict.fromkeys([*TRACKERS, "report_to"], test_keys_of_a_tracker_reach_it),
    "fsdp": test_sharding_reaches_its_plugin_and_needs_processes,
    "fsdp_config": test_sharding_reaches_its_plugin_and_needs_processes,
    "deepspeed": test_deepspeed_is_asked_for_where_it_is_absent,
    "log_level_replica": test_keys_of_many_processes_reach_them,
    "use_cpu": test_a_device_can_be_declined,
    "disable_tqdm": test_progress_is_shown_or_not,
    "output_dir": test_a_run_lies_in_its_output_dir,
    "task": test_task_is_held_against_the_method,
    "on_bad_row": test_bad_rows_stop_a_run_or_are_counted,
    "max_bad_rows": test_bad_rows_stop_a_run_or_are_counted,
    "data_cache": test_prepared_data_are_kept_where_asked_and_made_by_as_many,
    "data_workers": test_prepared_data_are_kept_where_asked_and_made_by_as_many,
    "trust_remote_code": test_code_of_a_model_runs_where_it_is_asked_for,
}


def test_every_key_is_shown_or_refused() -> None:
    """Also those that a new release of transformers or of peft brings, and our own new ones."""
    asked = {*SHOWN, *ELSEWHERE}
    assert asked | {*IDLE_KEYS} == {*TRAINING_KEYS, *Recipe.model_fields} - {"training"}
    assert not asked & {*IDLE_KEYS} and {*PARTNERS, *RANGES} <= asked
    assert {*LORA, *IDLE_LORA} == {*LoraConfig.__dataclass_fields__}
    assert {*SHAPE} == {*Shape.model_fields}
    assert {*HEALTH, "on_stop"} == {*Health.model_fields}
    assert {*SOURCE, "path", "ignore"} == {one.name for one in fields(Source)}


def test_every_number_has_its_range() -> None:
    hints = get_type_hints(TrainingArguments)
    numbers = {key for key, kind in hints.items() if {int, float} & {kind, *get_args(kind)} and key in TRAINING_KEYS}
    assert numbers - {*IDLE_KEYS} == {*RANGES}


def test_the_page_names_every_key_that_is_refused() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    table = page.split("### Keys that are refused")[1].split("###")[0]
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", table, re.MULTILINE)
    assert {key: why for names, why in rows for key in re.findall(r"`(\w+)`", names)} == IDLE_KEYS
    lora = page.split("## LoRA")[1].split("\n## ")[0]
    assert not [key for key in LORA if f"`{key}`" not in lora and f"`{key}:" not in lora]
