"""The loop: what is learned, in which order, from where it goes on, and what it leaves behind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid
from torch.testing import assert_close
from transformers import BloomConfig, BloomForCausalLM, TrainerCallback, TrainingArguments

from mmpo import methods
from mmpo.batch import Collator, Limits
from mmpo.errors import UserError
from mmpo.evaluate.scoring import Scorer
from mmpo.models import FrozenCopy, PolicyReader, RewardReader, packed
from mmpo.recipe import Shape, make_recipe, read_recipe
from mmpo.run.loop import GradedTrainer
from mmpo.run.setup import bring_together, from_recipe
from mmpo.train import train, train_recipe
from mmpo.types import Batch, Datum, Judgement, Outcome
from tiny import ROWS, batch_of, data_of, gradients, minilm, plain, rows_file, saved

LIMITS = Limits(64)
EIGHT = [*ROWS, *({**row, "prompt": f"Again: {row['prompt']}"} for row in ROWS[:2])]


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 3,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "seed": 5,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    return TrainingArguments(output_dir=str(folder), **{**settings, **more})


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer: Any) -> Any:
    return plain(tiny_tokenizer)


@pytest.fixture
def make(tiny_policy: Any, tiny_reward: Any) -> Callable[[str], Any]:
    """A fresh model for a task; the same weights each time."""
    return lambda task: tiny_policy(0) if task == "policy" else tiny_reward(0)


METHOD = {"policy": "mmpo", "reward": "mmpo_reward"}


def history(folder: Path, key: str) -> list[float]:
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry[key] for entry in log if key in entry]


# ---------------------------------------------------------------------------------------------- it learns


@pytest.mark.parametrize("task", ["policy", "reward"])
def test_a_run_learns_and_leaves_what_it_should(
    task: str, make: Any, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = methods.build(METHOD[task], gamma=0.5)
    data = data_of()
    args = arguments(tmp_path, max_steps=24, learning_rate=3e-3, eval_strategy="steps", eval_steps=12)
    trainer = train(make(task), method, data, args, eval_data=data, tokenizer=tokenizer, limits=LIMITS)
    losses = history(tmp_path, "loss")
    assert len(losses) == 24 and sum(losses[-6:]) < 0.9 * sum(losses[:6])
    accuracy = history(tmp_path, "eval_rewards/accuracies")
    assert accuracy[-1] > 0.9 and len(accuracy) == 3
    assert {p.name for p in tmp_path.iterdir()} >= {
        "README.md", "all_results.json", "config.json", "eval_results.json", "model.safetensors", "run.json",
        "tokenizer_config.json", "train_results.json", "trainer_state.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "train_results.json").read_text())["train_runtime"] > 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "finished" and record["task"] == task and record["prompts"] == 6
    assert record["comparisons"] == {"comparisons": 15, "with votes": 0, "bare labels": 0}
    assert record["steps"] == 24 and record["seed"] == 5 and record["arguments"]["learning_rate"] == 3e-3
    assert record["versions"]["torch"] == torch.__version__
    assert record["reference"] == ("copy" if task == "policy" else None)
    assert record["metrics"]["eval_loss"] == pytest.approx(history(tmp_path, "eval_loss")[-1])
    assert all(line.startswith(("ok", "note")) for line in record["self_test"])
    said = capsys.readouterr().out
    assert "6 prompts: 15 comparisons" in said and "0 of 6 prompts lost their beginning" in said
    for name, weight in load_file(tmp_path / "model.safetensors").items():
        assert_close(trainer.model.state_dict()[name], weight, rtol=0, atol=0)


def test_the_model_that_was_kept_is_told(
    make: Any, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The margin grows all the time; asked for the smallest, the run keeps its first checkpoint."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "rewards/margins", "greater_is_better": False}
    every = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    args = arguments(tmp_path, learning_rate=3e-3, **best, **every)
    train(make("reward"), "mmpo_reward", data_of(), args, eval_data=data_of(), tokenizer=tokenizer, limits=LIMITS)
    kept = json.loads((tmp_path / "run.json").read_text())["kept"]
    margin = history(tmp_path, "eval_rewards/margins")[0]
    assert kept == f"the model of step 2 of 6, eval_rewards/margins {margin:.4g}"
    assert f"kept: {kept}" in capsys.readouterr().out
    assert f"| kept | {kept} |" in (tmp_path / "README.md").read_text()
    weights, first = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "checkpoint-2"))
    assert all(torch.equal(weights[name], first[name]) for name in weights)


def test_a_policy_starts_at_ln_2(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    """The first loss of every logistic method is ln 2 where policy and reference agree, whatever the targets."""
    train(make("policy"), "mmpo", data_of(), arguments(tmp_path, max_steps=1), tokenizer=tokenizer, limits=LIMITS)
    assert history(tmp_path, "loss") == [pytest.approx(math.log(2), abs=1e-6)]
    assert history(tmp_path, "rewards/margins") == [0.0] and history(tmp_path, "rewards/accuracies") == [0.5]


def test_a_recipe_is_the_same_run(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    """The recipe and the Python call, on the same rows with the same seed, give the same weights."""
    content = {
        "model": saved(make("reward"), tokenizer, tmp_path / "base"),
        "data": rows_file(tmp_path),
        "eval_data": rows_file(tmp_path, ROWS[:3], "held_out.jsonl"),
        "method": {"name": "mmpo_reward", "gamma": 0.5},
        "output_dir": str(tmp_path / "yaml"),
        "max_length": 64,
        "max_steps": 4,
        "per_device_train_batch_size": 3,
        "learning_rate": 1e-3,
        "seed": 5,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    train_recipe(read_recipe(tmp_path / "recipe.yaml"))
    method = methods.reward.mmpo_reward(gamma=0.5)
    args = arguments(tmp_path / "python", max_steps=4)
    train(content["model"], method, content["data"], args, limits=LIMITS)
    yaml_run, python_run = (load_file(tmp_path / name / "model.safetensors") for name in ("yaml", "python"))
    assert all(torch.equal(yaml_run[name], python_run[name]) for name in yaml_run)
    record = json.loads((tmp_path / "yaml" / "run.json").read_text())
    assert record["data"]["rows_in"] == 6 and record["eval_data"]["rows_in"] == 3
    assert record["data"]["shaping"]["merging"] and record["eval_data"]["shaping"]["merging"]
    assert record["recipe"]["method"] == {"name": "mmpo_reward", "gamma": 0.5}


def test_gamma_is_fitted_to_the_data(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    recipe = make_recipe(
        {
            "model": saved(make("reward"), tokenizer, tmp_path / "base"),
            "data": rows_file(tmp_path),
            "method": {"name": "mmpo_reward", "gamma": "auto"},
            "output_dir": str(tmp_path / "run"),
            "max_steps": 1,
            "disable_tqdm": True,
        }
    )
    train_recipe(recipe)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    gamma = record["gamma"]["gamma"]
    assert gamma > 0 and f"gamma={gamma!r}" in record["method"]
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"| gamma | {gamma}" in card and record["gamma"]["note"] in card


# ---------------------------------------------------------------------------------------------- the card


def test_the_card_tells_the_run(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    method = methods.policy.mmpo(gamma=0.75, beta=0.2)
    data = data_of()
    base = saved(make("policy"), tokenizer, tmp_path / "base")
    train(base, method, data, arguments(tmp_path / "run", max_steps=2), eval_data=data, limits=LIMITS)
    card = (tmp_path / "run" / "README.md").read_text()
    head, body = card.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(head) == {
        "library_name": "transformers",
        "base_model": base,
        "tags": ["mmpo", "preference-optimization"],
        "pipeline_tag": "text-generation",
    }
    metrics = json.loads((tmp_path / "run" / "run.json").read_text())["metrics"]
    for line in (
        "| method | `BradleyTerry x LogRatio x Logistic` |",
        "| reference | copy |",
        "| prompts | 6 |",
        "| comparisons | 15 |",
        "P_ij = sigmoid(0.75 (q_i - q_j))",
        "M_ij = s_i - s_j, s = 0.2 (log pi(y|x) - log ref(y|x))",
        "0 of 6 prompts lost their beginning",
        f"| eval_loss | {metrics['eval_loss']:.6g} |",
        "Margin Matching Preference Optimization. arXiv:2410.03145",
    ):
        assert line in body


# ---------------------------------------------------------------------------------------------- distinct targets


def eight_pairs() -> list[Datum]:
    """Eight prompts of two responses with eight different targets."""
    texts = [f"{row['prompt']}{n}: " for n, row in enumerate((ROWS + ROWS)[:8])]
    replies = [(f"fox {n}", f"a plum, {n * n} pears") for n in range(8)]
    return [Datum(str(n), texts[n], replies[n], grades=(float(n), 3.0)) for n in range(8)]


@pytest.mark.parametrize("task", ["policy", "reward"])
def test_a_batch_of_eight_is_the_mean_of_eight(task: str, make: Any, tokenizer: Any, tiny_policy: Any) -> None:
    """Loss and gradient, through the real reader; every pair sees its own target and no other."""
    model, data = make(task).eval(), eight_pairs()
    if task == "policy":
        reader, method = PolicyReader(FrozenCopy.of(tiny_policy(1))), methods.policy.mmpo(gamma=0.5, beta=1.0)
    else:
        reader, method = RewardReader(), methods.reward.mmpo_reward(gamma=0.5)
        model.score.weight.data.mul_(30)

    def outcome(part: list[Datum]) -> Outcome:
        batch = batch_of(part, tokenizer, LIMITS)
        model.zero_grad()
        said = method(batch.evidence, reader(model, batch))
        said.loss.backward()
        return said

    whole = outcome(data)
    together = gradients(model)
    margins = whole.m[:, 0, 1].detach()
    by_hand = []
    singles = []
    each: dict[str, torch.Tensor] = {}
    for n, datum in enumerate(data):
        singles.append(outcome([datum]).loss)
        for name, gradient in gradients(model).items():
            each[name] = each.get(name, 0) + gradient / 8
        p = 1 / (1 + math.exp(-0.5 * (n - 3)))
        by_hand.append(-(p * logsigmoid(margins[n]) + (1 - p) * logsigmoid(-margins[n])))
    assert_close(whole.losses, torch.stack(by_hand), rtol=1e-5, atol=1e-6)
    assert_close(whole.loss, torch.stack(singles).mean(), rtol=1e-5, atol=1e-6)
    for name, gradient in together.items():
        assert_close(gradient, each[name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    mixed = -torch.stack([p * logsigmoid(m) + (1 - p) * logsigmoid(-m) for m in margins for p in whole.p[:, 0, 1]])
    assert (mixed.mean() - whole.loss).abs() > 1e-3, "if every pair saw every target, this test would not tell"


# ---------------------------------------------------------------------------------------------- steps


def weights(trainer: GradedTrainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


@pytest.mark.parametrize("normalises", [True, False], ids=["normalises", "leaves"])
@pytest.mark.parametrize("task", ["policy", "reward"])
def test_two_times_four_is_eight(task: str, normalises: bool, make: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Accumulating 4 batches of 2 prompts takes the step of one batch of 8, though K differs among the prompts.

    Whether the model's own loss could be divided by the tokens of a step must not matter.
    """
    data = data_of(EIGHT)
    start = {name: weight.detach().clone() for name, weight in make(task).named_parameters()}
    runs = []
    for size, steps in ((8, 1), (2, 4)):
        args = arguments(
            tmp_path / str(size),
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=1e9,
        )
        model = make(task)
        model.accepts_loss_kwargs = normalises
        trainer = train(model, METHOD[task], data, args, tokenizer=tokenizer, limits=LIMITS, shape=Shape())
        runs.append((weights(trainer), trainer.state.log_history[0]))
    (whole, whole_log), (parts, parts_log) = runs
    assert max(float((whole[name] - start[name]).abs().max()) for name in whole) > 1e-3
    for name, weight in whole.items():
        assert_close(parts[name], weight, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    for key in ("loss", "grad_norm", "rewards/margins", "rewards/chosen", "rewards/accuracies"):
        assert parts_log[key] == pytest.approx(whole_log[key], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("task", ["policy", "reward"])
def test_micro_batches_change_nothing_but_memory(task: str, make: Any, tokenizer: Any, tmp_path: Path) -> None:
    """One step of eight prompts, read one by one, a few at a time and all at once."""
    data = data_of(EIGHT)
    start = {name: weight.detach().clone() for name, weight in make(task).named_parameters()}
    runs, parts = [], []
    for size in (1, 50, 120, 10_000):
        args = arguments(
            tmp_path / str(size),
            max_steps=1,
            per_device_train_batch_size=8,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=1e9,
        )
        options: dict[str, Any] = {"tokenizer": tokenizer, "limits": LIMITS, "micro_batch_tokens": size}
        trainer = train(make(task), METHOD[task], data, args, eval_data=data, **options)
        parts.append(len(next(iter(trainer.get_train_dataloader()))["batch"]))
        runs.append((weights(trainer), trainer.state.log_history))
        assert json.loads((tmp_path / str(size) / "run.json").read_text())["micro_batch_tokens"] == size
    assert parts[0] == 8 and 1 < parts[2] < 8 and parts[3] == 1
    whole, (step, *_, evaluated) = runs[3]
    assert max(float((whole[name] - start[name]).abs().max()) for name in whole) > 1e-3
    for found, log in runs[:3]:
        for name, weight in found.items():
            assert_close(weight, whole[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
        for key in ("loss", "grad_norm", "rewards/margins", "rewards/chosen", "rewards/accuracies"):
            assert log[0][key] == pytest.approx(step[key], rel=1e-4, abs=1e-6)
        for key in ("eval_loss", "eval_rewards/margins", "eval_rewards/accuracies"):
            assert log[-1][key] == pytest.approx(evaluated[key], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("task", ["policy", "reward"])
@pytest.mark.parametrize(
    ("prompts", "splits"),
    [
        (6, ((4, 1), (2, 2), (1, 4))),  # steps of 4 and 2 prompts: the last one has fewer batches
        (5, ((5, 1), (3, 2), (2, 3))),  # one step of batches of 3 and 2, or of 2, 2 and 1
        (5, ((4, 1), (2, 2), (1, 4))),  # steps of 4 and 1
    ],
)
def test_an_uneven_end_counts_every_prompt_once(
    task: str, prompts: int, splits: tuple[tuple[int, int], ...], make: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """After one epoch the weights are those of whole batches, however a step was cut into batches."""
    runs = []
    for size, steps in splits:
        args = arguments(
            tmp_path / f"{size} {steps}",
            max_steps=-1,
            num_train_epochs=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim="sgd",
            learning_rate=0.5,
            max_grad_norm=1e9,
        )
        options: dict[str, Any] = {"tokenizer": tokenizer, "limits": LIMITS, "micro_batch_tokens": 100}
        trainer = train(make(task), METHOD[task], data_of(ROWS[:prompts]), args, **options)
        assert trainer.state.global_step == -(-prompts // (size * steps))
        runs.append((weights(trainer), history(tmp_path / f"{size} {steps}", "loss")))
    (whole, losses), *others = runs
    for found, logged in others:
        assert logged == pytest.approx(losses, abs=1e-6)
        for name, weight in found.items():
            assert_close(weight, whole[name], rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


class Count(TrainerCallback):
    """Counts the steps that are taken."""

    steps = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.steps += 1


class Interrupt(TrainerCallback):
    """Pulls the plug after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("task", "options"),
    [("reward", {}), ("policy", {}), ("policy", {"reference": "cached"}), ("policy", {"lora": {"r": 4}})],
)
def test_a_run_goes_on_as_if_nothing_had_happened(
    task: str, options: dict[str, Any], make: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """Stopped after step 5, it goes on from the checkpoint of step 4 and ends with the same bits."""
    base = saved(make(task), tokenizer, tmp_path / "base")

    def run(name: str, *callbacks: TrainerCallback) -> None:
        recipe = make_recipe(
            {
                "model": base,
                "data": rows_file(tmp_path),
                "method": METHOD[task],
                "output_dir": str(tmp_path / name),
                "max_steps": 8,
                "per_device_train_batch_size": 2,
                "learning_rate": 1e-3,
                "logging_steps": 1,
                "save_steps": 4,
                "disable_tqdm": True,
                **options,
            }
        )
        train_recipe(recipe, callbacks)

    run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", Interrupt(5))
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["status"] == "started"
    count = Count()
    run("stopped", count)
    assert count.steps == 4
    whole, again = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    start = load_file(Path(base) / "model.safetensors")
    assert any(not torch.equal(whole[name], start[name]) for name in start)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert history(tmp_path / "whole", "loss") == history(tmp_path / "stopped", "loss")


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_the_seed_of_the_recipe_decides(lora: Any, tiny_policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """A new head and a new adapter too are drawn from it, whatever was drawn before."""
    base, data = saved(tiny_policy(0), tokenizer, tmp_path / "base"), rows_file(tmp_path)
    heads = []
    for n, seed in enumerate((3, 3, 4)):
        torch.manual_seed(n)
        setup = from_recipe(recipe_in(tmp_path / "run", base, data, seed=seed, lora=lora))
        heads.append({name: weight for name, weight in setup.model.named_parameters() if weight.requires_grad})
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert any("score" in name and not torch.equal(heads[0][name], heads[2][name]) for name in heads[0])


# ---------------------------------------------------------------------------------------------- layouts

LAYOUTS = ("padded", "separate", "shared")


@pytest.mark.parametrize("task", ["policy", "reward"])
def test_every_layout_trains_alike(task: str, make: Any, tokenizer: Any, tmp_path: Path) -> None:
    base, data = saved(make(task), tokenizer, tmp_path / "base"), rows_file(tmp_path)
    asked: dict[str, dict[str, Any]] = {
        **{layout: {"layout": layout} for layout in LAYOUTS},
        "nothing": {},
        "checkpointed": {"gradient_checkpointing": True},
        "compiled": {"torch_compile": True, "torch_compile_backend": "aot_eager"},
    }
    runs = {}
    for name, keys in asked.items():
        settings = {"method": METHOD[task], "max_steps": 6, "logging_steps": 1, "learning_rate": 1e-3, "seed": 5}
        trainer = train_recipe(recipe_in(tmp_path / name, base, data, eval_data=data, **settings, **keys))
        layout = keys.get("layout", "shared")
        assert packed.is_enabled(trainer.model) == (layout != "padded")
        compiled = [m for m in trainer.model.modules() if m._compiled_call_impl is not None]
        assert len(compiled) == (2 if name == "compiled" else 0)
        assert layout == "padded" or trainer.data_collator.shared == (layout == "shared")
        record = json.loads((tmp_path / name / "run.json").read_text())
        # Only what falls short of what was asked for has a reason.
        assert record["layout"] == layout and record["layout_reason"] is None
        runs[name] = history(tmp_path / name, "loss") + history(tmp_path / name, "eval_loss")
    assert len(runs["padded"]) == 7 and len(set(runs["padded"])) == 7
    for losses in runs.values():
        assert losses == pytest.approx(runs["padded"], abs=1e-5)


def bloom(tokenizer: Any) -> Any:
    """Its attention is its own, so that it cannot read packed rows."""
    torch.manual_seed(0)
    return BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=2))


def test_the_best_layout_that_a_model_can_read_is_told_and_recorded(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(bloom(tokenizer), "dpo", data_of(), arguments(tmp_path), tokenizer=tokenizer, limits=LIMITS)
    reason = "its attention does not go through the attention interface of transformers"
    assert f"padded batches: {reason}" in capsys.readouterr().out
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["layout"], record["layout_reason"]) == ("padded", reason)
    setup = bring_together(minilm(), "mmpo_reward", data_of(), limits=LIMITS)
    reason = "it reads prompt and response in both directions"
    assert (setup.record["layout"], setup.record["layout_reason"]) == ("separate", reason)
    assert f"separate batches: {reason}" in setup.account


def test_an_impossible_layout_is_refused_with_the_possible_one(make: Any, tokenizer: Any) -> None:
    options: dict[str, Any] = {"tokenizer": tokenizer, "limits": LIMITS}
    for layout in ("shared", "separate"):
        with pytest.raises(UserError, match=rf"layout is '{layout}', but .*its attention .*; take layout: padded$"):
            bring_together(bloom(tokenizer), "dpo", data_of(), layout=layout, **options)
    bring_together(bloom(tokenizer), "dpo", data_of(), layout="padded", **options)
    with pytest.raises(UserError, match=r"layout is 'shared', .* in both directions; take layout: separate$"):
        bring_together(minilm(), "mmpo_reward", data_of(), layout="shared", limits=LIMITS)


@pytest.mark.parametrize(
    ("key", "value"), [("layout", "packed"), ("micro_batch_tokens", 0), ("statistics", ["perplexity"])]
)
def test_values_that_mean_nothing_are_refused(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"recipe: {key}"):
        recipe_in(tmp_path, "base", "rows.jsonl", **{key: value})


def test_a_cache_without_a_cached_reference_is_refused(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="add reference: cached, or leave it out"):
        bring_together(make("policy"), "dpo", data_of(), tokenizer=tokenizer, reference_cache=tmp_path)
    content = {"model": "m", "method": "simpo", "data": "d.jsonl", "output_dir": "o"}
    with pytest.raises(UserError, match="reference_cache needs reference: cached"):
        make_recipe({**content, "reference_cache": "there"})
    with pytest.raises(UserError, match="statistics are of a policy"):
        make_recipe({**content, "method": "mmpo_reward", "statistics": ["entropy"]})


def test_statistics_of_a_reward_model_are_refused(make: Any, tokenizer: Any) -> None:
    with pytest.raises(UserError, match="statistics entropy are of a policy; a reward model has none"):
        bring_together(make("reward"), "mmpo_reward", data_of(), tokenizer=tokenizer, statistics=["entropy"])


# ---------------------------------------------------------------------------------------------- the reference's cache


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_a_cached_reference_is_read_once_for_all_runs(
    lora: Any, tiny_policy: Any, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another beta asks for nothing new; another row for its own responses; another model for everything."""
    bases = [saved(tiny_policy(seed), tokenizer, tmp_path / f"base{seed}") for seed in (0, 1)]
    rows = rows_file(tmp_path)
    more = rows_file(tmp_path, [*ROWS, EIGHT[-1]], "more.jsonl")

    def computed(name: str, base: str, data: str, **options: Any) -> int:
        settings = {"reference": "cached", "reference_cache": str(tmp_path / "cache"), "logging_steps": 1}
        method = {"name": "mmpo", "gamma": 0.5, **options}
        train_recipe(recipe_in(tmp_path / name, base, data, method=method, lora=lora, eval_data=rows, **settings))
        record = json.loads((tmp_path / name / "run.json").read_text())
        found = record["reference_cache"]
        assert Path(found["path"]).parent == tmp_path / "cache" and Path(found["path"]).is_file()
        assert f"{found['computed']} responses computed, the others known in {found['path']}" in capsys.readouterr().out
        assert any(line.startswith("ok   cached = live reference") for line in record["self_test"])
        return int(found["computed"])

    # Training and held-out rows are the same 16 responses; they are read once.
    assert computed("first", bases[0], rows) == 16
    assert computed("beta", bases[0], rows, beta=0.5) == 0
    assert computed("more", bases[0], more) == len(EIGHT[-1]["responses"])
    assert computed("model", bases[1], rows) == 16
    assert len(list((tmp_path / "cache").glob("reference-*.sqlite"))) == 2
    assert history(tmp_path / "beta", "loss") == [pytest.approx(math.log(2), abs=1e-6)]


def test_what_was_read_before_a_stop_is_not_read_again(
    make: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Collator.chunks, "__defaults__", (60,))
    options: dict[str, Any] = {"tokenizer": tokenizer, "limits": LIMITS, "reference": "cached"}
    options["reference_cache"] = tmp_path
    read = FrozenCopy.__call__
    seen: list[int] = []

    def stopped(self: FrozenCopy, model: Any, batch: Batch) -> torch.Tensor:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(int(batch.evidence.mask.sum()))
        return read(self, model, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FrozenCopy, "__call__", stopped)
        bring_together(make("policy"), "dpo", data_of(), **options)
    setup = bring_together(make("policy"), "dpo", data_of(), **options)
    assert setup.record["reference_cache"]["computed"] == 16 - sum(seen) < 16
    fresh = bring_together(make("policy"), "dpo", data_of(), **{**options, "reference_cache": tmp_path / "fresh"})
    for found, whole in zip(setup.examples, fresh.examples, strict=True):
        assert_close(found.ref_logps, whole.ref_logps, rtol=0, atol=1e-4)


def test_a_reference_that_is_not_finite_is_refused(make: Any, tokenizer: Any) -> None:
    model = make("policy")
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = math.nan
    with pytest.raises(UserError, match=r"^0: the reference gives its responses the log-probs \[nan, nan\]; look at"):
        bring_together(model, "dpo", data_of(), tokenizer=tokenizer, limits=LIMITS, reference="cached", layout="padded")


def test_a_cached_reference_trains_as_a_copy_does(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    losses = []
    for name, reference in (("copy", "copy"), ("cold", "cached"), ("warm", "cached")):
        args = arguments(tmp_path / name)
        options: dict[str, Any] = {"reference_cache": tmp_path / "cache"} if reference == "cached" else {}
        train(
            make("policy"), "mmpo", data_of(), args, tokenizer=tokenizer, limits=LIMITS, reference=reference, **options
        )
        losses.append(history(tmp_path / name, "loss"))
    copy, cold, warm = losses
    assert cold == pytest.approx(copy, abs=1e-5) and warm == cold and len(set(copy)) == 6
    assert json.loads((tmp_path / "warm" / "run.json").read_text())["reference_cache"]["computed"] == 0


# ---------------------------------------------------------------------------------------------- measuring


def test_evaluation_is_the_exact_mean_over_prompts(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Six prompts in batches of 4 and 2, against each prompt alone."""
    data = data_of()
    setup = bring_together(make("reward"), "mmpo_reward", data, data, tokenizer=tokenizer, limits=LIMITS)
    trainer = GradedTrainer(
        setup.model,
        arguments(tmp_path),
        method=setup.method,
        reader=setup.reader,
        tokenizer=tokenizer,
        eval_dataset=setup.eval_examples,
    )
    found = trainer.evaluate()
    setup.model.eval()
    with torch.no_grad():
        batches = [batch_of([datum], tokenizer, LIMITS) for datum in data]
        outcomes = [setup.method(batch.evidence, setup.reader(setup.model, batch)) for batch in batches]
    losses = torch.cat([outcome.losses for outcome in outcomes]).double()
    assert found["eval_loss"] == pytest.approx(float(losses.mean()), rel=1e-6)
    assert float(losses[:4].mean() + losses[4:].mean()) / 2 != pytest.approx(float(losses.mean()), rel=1e-4)
    right = margin = 0.0
    for datum, outcome in zip(data, outcomes, strict=True):
        grades = datum.grades or ()
        for i in range(len(grades)):
            for j in range(i + 1, len(grades)):
                lead = outcome.m[0, i, j].item() * (grades[i] > grades[j]) - outcome.m[0, i, j].item() * (
                    grades[i] < grades[j]
                )
                right += 0.5 if grades[i] == grades[j] else float(lead > 0)
                margin += lead
    assert found["eval_rewards/accuracies"] == pytest.approx(right / 15)
    assert found["eval_rewards/margins"] == pytest.approx(margin / 15, rel=1e-5)
    assert found["eval_rewards/rejected"] + found["eval_rewards/margins"] == pytest.approx(found["eval_rewards/chosen"])


def test_a_model_with_an_adapter_is_still_itself_after_it_was_saved(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    data = data_of()
    args = arguments(tmp_path, learning_rate=1e-2)
    options: dict[str, Any] = {"tokenizer": tokenizer, "limits": LIMITS, "lora": {"r": 4}}
    trainer = train(make("policy"), "mmpo", data, args, eval_data=data, **options)
    before = json.loads((tmp_path / "eval_results.json").read_text())
    assert abs(before["eval_rewards/margins"]) > 1e-3
    assert trainer.evaluate()["eval_loss"] == pytest.approx(before["eval_loss"], rel=1e-6)


def test_trackers_get_the_metrics(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    args = arguments(tmp_path, max_steps=2, report_to="tensorboard", logging_steps=1)
    train(make("reward"), "mmpo_reward", data_of(), args, tokenizer=tokenizer, limits=LIMITS)
    (events,) = tmp_path.rglob("events.out.tfevents*")
    log = EventAccumulator(str(events))
    log.Reload()
    assert {"train/loss", "train/rewards/margins", "train/rewards/accuracies"} <= set(log.Tags()["scalars"])


@torch.no_grad()
def test_statistics_are_means_over_response_tokens(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Of the first step, in micro-batches, and of an evaluation, against every token of every response alone."""
    model, start = make("policy"), make("policy").eval()
    for one in (model, start):
        # A model that says the last token again, so that it is right now and then.
        one.lm_head.weight.copy_(10 * one.model.embed_tokens.weight)
    data = data_of([*ROWS, {"prompt": "Sing.\n", "responses": ["!!!!!", "Yes!"], "scores": [1, 2]}])
    hits = entropy = 0.0
    counted = 0
    for datum in data:
        for response in datum.responses:
            asked = tokenizer(str(datum.prompt))["input_ids"]
            ids = tokenizer(f"{datum.prompt}{response}</s>")["input_ids"]
            p = start(torch.tensor([ids])).logits[0].double().softmax(-1)[len(asked) - 1 : -1]
            entropy -= float((p * p.log()).sum())
            hits += float((p.argmax(-1) == torch.tensor(ids[len(asked) :])).sum())
            counted += len(p)
    assert 4 <= hits < counted / 2
    args = arguments(tmp_path, max_steps=1, per_device_train_batch_size=7, learning_rate=0.0)
    options: dict[str, Any] = {"statistics": ("entropy", "hits"), "micro_batch_tokens": 100}
    with torch.enable_grad():
        train(model, "dpo", data, args, eval_data=data, tokenizer=tokenizer, limits=LIMITS, **options)
    for prefix in ("", "eval_"):
        assert history(tmp_path, f"{prefix}entropy")[0] == pytest.approx(entropy / counted, rel=1e-5)
        assert history(tmp_path, f"{prefix}mean_token_accuracy")[0] == pytest.approx(hits / counted, rel=1e-6)


# ---------------------------------------------------------------------------------------------- one folder, one run


def recipe_in(folder: Path, base: str, data: str, **more: Any) -> Any:
    content = {"model": base, "data": data, "method": "mmpo_reward", "output_dir": str(folder), "max_steps": 1}
    return make_recipe({**content, "disable_tqdm": True, **more})


def test_a_folder_holds_one_run(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    base, data = saved(make("reward"), tokenizer, tmp_path / "base"), rows_file(tmp_path)
    train_recipe(recipe_in(tmp_path / "run", base, data))
    before = (tmp_path / "run" / "run.json").read_text()
    with pytest.raises(
        UserError, match=r"holds another run \(it differs in method\.gamma\); choose another output_dir"
    ):
        train_recipe(recipe_in(tmp_path / "run", base, data, method={"name": "mmpo_reward", "gamma": 1.0}))
    with pytest.raises(UserError, match=r"differs in training\.learning_rate\)"):
        train_recipe(recipe_in(tmp_path / "run", base, data, learning_rate=1e-4))
    with pytest.raises(UserError, match="holds this very run, finished"):
        train_recipe(recipe_in(tmp_path / "run", base, data))
    assert (tmp_path / "run" / "run.json").read_text() == before


def test_a_run_that_never_took_a_step_leaves_the_folder_free(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    base, data = saved(make("reward"), tokenizer, tmp_path / "base"), rows_file(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train_recipe(recipe_in(tmp_path / "run", base, data), [Interrupt(1)])
    train_recipe(recipe_in(tmp_path / "run", base, data, learning_rate=1e-4))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


def test_objects_too_go_on_only_with_what_they_began_with(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    args = {"save_strategy": "steps", "save_steps": 2}
    options: dict[str, Any] = {"tokenizer": tokenizer, "limits": LIMITS}
    with pytest.raises(KeyboardInterrupt):
        train(
            make("reward"), "mmpo_reward", data_of(), arguments(tmp_path, **args), callbacks=[Interrupt(3)], **options
        )
    with pytest.raises(UserError, match=r"differs in texts\)"):
        train(make("reward"), "mmpo_reward", data_of(ROWS[:5]), arguments(tmp_path, **args), **options)
    with pytest.raises(UserError, match=r"differs in arguments\.weight_decay\)"):
        train(make("reward"), "mmpo_reward", data_of(), arguments(tmp_path, **args, weight_decay=0.1), **options)
    train(make("reward"), "mmpo_reward", data_of(), arguments(tmp_path, **args), **options)


# ---------------------------------------------------------------------------------------------- nothing silent


def test_what_python_drops_is_told_and_recorded(
    make: Any, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {**ROWS[0], "responses": ["", "x"]}
    sources = [rows_file(tmp_path, [*ROWS, bad], name) for name in ("a.jsonl", "b.jsonl")]
    args = arguments(tmp_path / "run", max_steps=1)
    options: dict[str, Any] = {"tokenizer": tokenizer, "limits": LIMITS, "on_bad_row": "drop"}
    train(make("reward"), "mmpo_reward", sources[0], args, eval_data=sources[1], **options)
    said = capsys.readouterr().out
    assert "rows: 7 in, 6 used, 1 dropped - 1 empty response" in said
    assert "eval_data: rows: 7 in, 6 used, 1 dropped" in said and "eval_data: 6 prompts; max_length 64" in said
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    for part in ("data", "eval_data"):
        assert record[part]["dropped"]["empty response"]["count"] == 1


def test_an_offset_is_refused_by_a_method_that_would_ignore_it(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "margin": 0.5}]
    source = {"path": rows_file(tmp_path, rows), "margin": "offset"}
    options: dict[str, Any] = {"tokenizer": tokenizer, "limits": LIMITS}
    with pytest.raises(UserError, match="declared an additive offset, which this method does not use"):
        train(make("reward"), "bradley_terry", source, arguments(tmp_path / "a", max_steps=1), **options)
    train(make("reward"), "margin_bradley_terry", source, arguments(tmp_path / "b", max_steps=1), **options)


@pytest.mark.parametrize(
    ("method", "judgements", "message"),
    [
        ("mmpo_reward", (Judgement(0, 1, p=1.0),), "all 1 comparisons are bare labels"),
        ("margin_bradley_terry", (Judgement(0, 1, p=1.0),), "bare labels"),
        ("mmpo_reward", (), "nobody compared any two responses"),
    ],
)
def test_a_method_is_refused_where_its_evidence_is_missing(
    method: str, judgements: tuple[Judgement, ...], message: str, make: Any, tokenizer: Any
) -> None:
    data = [Datum("d", "p", ("a", "b"), judgements=judgements)]
    with pytest.raises(UserError, match=message):
        bring_together(make("reward"), method, data, tokenizer=tokenizer)


def test_label_smoothing_of_the_loop_would_do_nothing(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    args = arguments(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(UserError, match="'label_smoothing_factor' may not be set: method cdpo"):
        train(make("reward"), "mmpo_reward", data_of(), args, tokenizer=tokenizer, limits=LIMITS)


def test_a_folder_of_others_is_not_written_over(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    base, data = saved(make("reward"), tokenizer, tmp_path / "base"), rows_file(tmp_path)
    before = (tmp_path / "base" / "config.json").read_text()
    with pytest.raises(UserError, match=r"base holds config\.json, which is not of a run"):
        train_recipe(recipe_in(tmp_path / "base", base, data))
    assert (tmp_path / "base" / "config.json").read_text() == before


def test_a_recipe_does_not_go_on_with_changed_data(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    base, data = saved(make("reward"), tokenizer, tmp_path / "base"), rows_file(tmp_path)
    recipe = recipe_in(tmp_path / "run", base, data, save_strategy="steps", save_steps=2, max_steps=4)
    with pytest.raises(KeyboardInterrupt):
        train_recipe(recipe, [Interrupt(3)])
    rows_file(tmp_path, ROWS[:4])
    with pytest.raises(UserError, match=r"it differs in texts\)"):
        train_recipe(recipe)
    rows_file(tmp_path)
    train_recipe(recipe)


def test_a_sequence_longer_than_the_model_reads_is_named(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    model = make("reward")
    most = model.config.max_position_embeddings
    long = [Datum("d", "word " * 2 * most, ("yes", "no"), grades=(1.0, 0.0))]
    with pytest.raises(UserError, match=rf"and the model reads {most}; set max_length: {most}"):
        train(model, "mmpo_reward", long, arguments(tmp_path), tokenizer=tokenizer, limits=Limits(32 * most))


def test_an_encoder_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is an encoder and cannot write; a policy needs a decoder"):
        train(minilm(), "mmpo", data_of(), arguments(tmp_path), limits=LIMITS)


def test_a_checkpoint_is_read_as_its_run_is(make: Any, tokenizer: Any, tmp_path: Path) -> None:
    args = arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    train(make("policy"), "simpo", data_of(), args, tokenizer=tokenizer, limits=LIMITS)
    whole, checkpoint = (Scorer.load(str(path)) for path in (tmp_path, tmp_path / "checkpoint-2"))
    assert checkpoint.score == whole.score and checkpoint.limits == whole.limits
    assert checkpoint(data_of()).rewards == whole(data_of()).rewards
    (tmp_path / "config.json").unlink()
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**record, "status": "started"}))
    with pytest.raises(UserError, match="holds a run that is not finished"):
        Scorer.load(str(tmp_path))
