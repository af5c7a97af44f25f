"""Health of real runs: failures are provoked and found, a sound run is left alone, and watching changes nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, TrainerCallback

from conftest import tiny_config
from mmpo.errors import UserError
from mmpo.evaluate.health.probe import RewardModel
from mmpo.evaluate.model import evaluate_model
from mmpo.evaluate.scoring import Scorer
from mmpo.recipe import make_recipe
from mmpo.train import train_recipe
from tiny import ROWS, plain, rows_file, saved


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer: Any) -> Any:
    return plain(tiny_tokenizer)


def run(
    folder: Path, model: str, callbacks: Any = (), gold: Any = None, name: str = "run", **more: Any
) -> dict[str, Any]:
    """Train by recipe -> what health.json says, the vitals by name."""
    recipe = {
        "model": model,
        "data": rows_file(folder),
        "output_dir": str(folder / name),
        "max_steps": 12,
        "per_device_train_batch_size": 3,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "max_length": 64,
        "disable_tqdm": True,
        **more,
    }
    train_recipe(make_recipe(recipe), callbacks, gold)
    record = json.loads((folder / name / "health.json").read_text())
    return {**record, "vitals": {vital["name"]: vital for vital in record["vitals"]}}


def log(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def worth(prompts: Any, answers: Any) -> list[list[float]]:
    """Some vowels are good, and nothing but vowels is not: best with five."""
    return [[-float((sum(letter in "aeiou" for letter in text) - 5) ** 2) for text in row] for row in answers]


# ---------------------------------------------------------------------------------------------- provoked


def coins(n: int, seed: int) -> list[dict[str, Any]]:
    """Answers of eight letters, and a coin for each prompt that says which is better: nothing to learn but the rows."""
    draw = random.Random(seed)

    def letters() -> str:
        return "".join(draw.choice("abcdefgh ") for _ in range(8)) + "."

    return [
        {"prompt": f"{letters()}?\n", "responses": [letters(), letters()], "scores": draw.choice([[1, 0], [0, 1]])}
        for _ in range(n)
    ]


NOISE = {
    "method": "bradley_terry",
    "learning_rate": 3e-3,
    "per_device_train_batch_size": 8,
    "max_steps": 120,
    "logging_steps": 5,
}


def noisy(tmp_path: Path) -> dict[str, Any]:
    data = rows_file(tmp_path, coins(24, 0), "coins.jsonl")
    held_out = rows_file(tmp_path, coins(200, 1), "other coins.jsonl")
    return {**NOISE, "data": data, "eval_data": held_out, "eval_strategy": "steps", "eval_steps": 5}


def test_memorised_noise_is_found_and_stopped(tiny_reward: Any, tokenizer: Any, tmp_path: Path, capsys: Any) -> None:
    model = saved(tiny_reward(0), tokenizer, tmp_path / "base")
    found = run(tmp_path, model, health={"on_stop": "stop"}, **noisy(tmp_path))
    assert found["vitals"]["Memorised labels"]["verdict"] == "stop"
    assert found["stopped"].startswith("Memorised labels at step ")
    last = log(tmp_path / "run")[-1]["step"]
    assert 10 <= last < 120 and found["stopped"].endswith(str(last))
    said = capsys.readouterr().out
    assert "stop  Memorised labels" in said and f"stopped by {found['stopped']}" in said
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "finished" and any("Memorised labels" in line for line in record["health"])
    card = (tmp_path / "run" / "README.md").read_text()
    assert "## Health of the run" in card and "stop  Memorised labels" in card


def test_early_stopping_follows_a_number_of_health(tiny_reward: Any, tokenizer: Any, tmp_path: Path) -> None:
    model = saved(tiny_reward(0), tokenizer, tmp_path / "base")
    stops = {"early_stopping_patience": 2, "metric_for_best_model": "health/ece"}
    run(tmp_path, model, **stops, **noisy(tmp_path))
    eces = [row["eval_health/ece"] for row in log(tmp_path / "run") if "eval_health/ece" in row]
    # The first that is not beaten for two evaluations, and the measurement at the end.
    best = min(range(len(eces) - 1), key=eces.__getitem__)
    assert len(eces) - 2 == best + 2 and log(tmp_path / "run")[-1]["step"] == 5 * (best + 3) < 120
    with pytest.raises(UserError, match=r"an evaluation has no 'health/ecce'. Did you mean 'health/ece'.* loss, "):
        run(tmp_path, model, name="other", **{**stops, "metric_for_best_model": "health/ecce"}, **noisy(tmp_path))
    assert not list((tmp_path / "other").glob("checkpoint-*"))


def test_dropout_against_a_still_reference_is_found(tiny_tokenizer: Any, tokenizer: Any, tmp_path: Path) -> None:
    """The self-test reads without dropout and passes; training does not."""
    torch.manual_seed(0)
    config = tiny_config(tiny_tokenizer, attention_dropout=0.5, initializer_range=0.3)
    model = saved(LlamaForCausalLM(config), tokenizer, tmp_path / "base")
    options = {"method": {"name": "mmpo", "gamma": 0.3}, "max_steps": 2}
    found = run(tmp_path, model, disable_dropout=False, **options)
    vital = found["vitals"]["Reference at the start"]
    assert vital["verdict"] == "stop" and vital["since"] == 1
    assert run(tmp_path, model, name="still", **options)["vitals"]["Reference at the start"]["value"] < 1e-5


def test_gamma_beyond_the_scale_is_found(tiny_policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    model = saved(tiny_policy(0), tokenizer, tmp_path / "base")
    found = run(tmp_path, model, method={"name": "mmpo", "gamma": 20.0}, max_steps=60, logging_steps=20)
    assert found["vitals"]["Targets"]["verdict"] == "stop" and found["verdict"] == "stop"


def test_the_collapse_of_chosen_answers_is_found(tiny_policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Winner and loser differ in a word at the end, so that what they share is pushed down with the loser."""
    model = saved(tiny_policy(0), tokenizer, tmp_path / "base")
    shared = "The fox could go there and be"
    rows = [
        {"prompt": f"{n}?\n", "responses": [f"{shared} {n}.", f"{shared} {n}!"], "scores": [1, 0]} for n in range(6)
    ]
    data = rows_file(tmp_path, rows, "alike.jsonl")
    found = run(tmp_path, model, method={"name": "dpo", "beta": 0.1}, data=data, learning_rate=2e-2, max_steps=30)
    assert found["vitals"]["Chosen log-probs"]["verdict"] == "stop"
    assert found["vitals"]["Chosen log-probs"]["value"] < -0.5


@pytest.mark.slow
def test_over_optimisation_is_found_where_there_is_gold(tiny_policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """People always prefer the vowels, so the policy writes more and more of them; its true worth rises, then falls."""
    draw = random.Random(0)

    def word(letters: str) -> str:
        return "".join(draw.choice(letters) for _ in range(10))

    rows = [
        {"prompt": f"{word('abc')}?\n", "responses": [word("aeiou"), word("bcdfghklm")], "scores": [1, 0]}
        for _ in range(24)
    ]
    model = saved(tiny_policy(0), tokenizer, tmp_path / "base")
    found = run(
        tmp_path,
        model,
        gold=worth,
        method={"name": "dpo", "beta": 0.05},
        data=rows_file(tmp_path, rows, "vowels.jsonl"),
        per_device_train_batch_size=8,
        learning_rate=2e-2,
        max_steps=25,
        logging_steps=5,
        health={"every": 5, "prompts": 24, "samples": 2, "max_new_tokens": 12},
    )
    gold = [sum(look["gold"]) / 24 for look in found["looks"]]
    best = max(range(len(gold)), key=gold.__getitem__)
    assert 0 < best < len(gold) - 1 and gold[best] > gold[0]
    vital = found["vitals"]["Gold against proxy"]
    assert vital["verdict"] in ("watch", "stop") and f"step {found['looks'][best]['step']}" in vital["remedy"]


# ---------------------------------------------------------------------------------------------- sound


def test_a_sound_run_is_left_alone_and_its_report_says_so(tiny_policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    model = saved(tiny_policy(0), tokenizer, tmp_path / "base")
    data = rows_file(tmp_path, [{**row, "responses": [text[:9] for text in row["responses"]]} for row in ROWS])
    found = run(
        tmp_path,
        model,
        method={"name": "mmpo", "gamma": 0.3, "beta": 0.5},
        data=data,
        eval_data=data,
        eval_strategy="steps",
        eval_steps=4,
        health={"every": 0.5, "prompts": 4, "max_new_tokens": 6},
    )
    assert found["verdict"] == "fine" and len(found["vitals"]) == 16 and not found["said"]
    assert [look["step"] for look in found["looks"]] == [0, 6, 12]
    logged = [row for row in log(tmp_path / "run") if "health/answers/kl" in row]
    assert [row["step"] for row in logged] == [0, 6, 12] and logged[0]["health/answers/kl"] == pytest.approx(
        0, abs=1e-5
    )
    assert [row["step"] for row in log(tmp_path / "run") if "loss" in row] == [*range(1, 13)]
    evaluated = [row for row in log(tmp_path / "run") if "eval_health/answers/tokens" in row]
    assert [row["step"] for row in evaluated] == [4, 8, 12, 12]
    evaluate_model(Scorer.load(str(tmp_path / "run")), data, tmp_path / "report", name=str(tmp_path / "run"))
    assert "Was the run healthy?" in (tmp_path / "report" / "report.html").read_text()


class Interrupt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("options", [{"reference": "cached"}, {"lora": {"r": 4}}, {"method": "simpo"}], ids=str)
def test_watching_changes_no_weight_and_goes_on_after_a_stop(
    options: dict[str, Any], tiny_policy: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMPO_CACHE", str(tmp_path / "cache"))
    model = saved(tiny_policy(0), tokenizer, tmp_path / "base")
    common = {"method": {"name": "mmpo", "gamma": 0.3}, "max_steps": 8, "per_device_train_batch_size": 2, **options}
    health = {"every": 3, "prompts": 3, "samples": 2, "max_new_tokens": 5}
    run(tmp_path, model, name="bare", **common)
    whole = run(tmp_path, model, name="whole", health=health, **common)
    saves = {"save_strategy": "steps", "save_steps": 4}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, model, [Interrupt()], name="stopped", health=health, **saves, **common)
    again = run(tmp_path, model, name="stopped", health=health, **saves, **common)
    bare, watched, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("bare", "whole", "stopped"))
    assert all(torch.equal(bare[name], watched[name]) and torch.equal(bare[name], resumed[name]) for name in bare)
    for record in (whole, again):
        record["seconds"] = None
        for look in record["looks"]:
            look["seconds"] = None
        record["traces"].pop("health/answers/seconds")
    assert [look["step"] for look in again["looks"]] == [0, 3, 6, 8]
    assert whole == again
    assert all(abs(value) < 1e-4 for value in whole["looks"][0]["kl"]) and whole["looks"][-1]["kl"] != [0.0] * 3


def test_the_signs_of_a_step_change_no_weight(
    tiny_policy: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(tiny_policy(0), tokenizer, tmp_path / "base")
    options = {"method": {"name": "mmpo", "gamma": 0.3}, "max_steps": 4}
    run(tmp_path, model, name="watched", **options)
    monkeypatch.setattr("mmpo.run.loop.signs", lambda *batch: {})
    run(tmp_path, model, name="bare", **options)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("watched", "bare"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "health/drift/per_token" in log(tmp_path / "watched")[0] and "health/ece" not in log(tmp_path / "bare")[0]


def test_what_the_first_step_said_outlives_a_kill_before_the_first_log(
    tiny_policy: Any, tokenizer: Any, tmp_path: Path
) -> None:
    model = saved(tiny_policy(0), tokenizer, tmp_path / "base")
    options = {"method": {"name": "mmpo", "gamma": 0.3}, "max_steps": 8, "logging_steps": 8, "save_steps": 4}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, model, [Interrupt()], save_strategy="steps", **options)
    found = run(tmp_path, model, save_strategy="steps", **options)
    assert found["vitals"]["Reference at the start"]["value"] < 1e-5


class KilledWhileSaving(TrainerCallback):
    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if control.should_training_stop:
            raise KeyboardInterrupt


def test_a_stop_outlives_a_kill(tiny_reward: Any, tokenizer: Any, tmp_path: Path) -> None:
    model = saved(tiny_reward(0), tokenizer, tmp_path / "base")
    options = {**noisy(tmp_path), "health": {"on_stop": "stop"}, "save_strategy": "steps", "save_steps": 5}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, model, [KilledWhileSaving()], **options)
    stopped = max(int(path.name.split("-")[1]) for path in (tmp_path / "run").glob("checkpoint-*"))
    found = run(tmp_path, model, **options)
    assert found["stopped"] == f"Memorised labels at step {stopped}"
    assert log(tmp_path / "run")[-1]["step"] == stopped < 120


def test_a_reward_model_can_be_the_gold(tiny_policy: Any, tiny_reward: Any, tokenizer: Any, tmp_path: Path) -> None:
    model = saved(tiny_policy(0), tokenizer, tmp_path / "base")
    judge = saved(tiny_reward(1), tokenizer, tmp_path / "judge")
    health = {"every": 0.5, "prompts": 3, "max_new_tokens": 5, "gold": judge}
    found = run(tmp_path, model, method={"name": "mmpo", "gamma": 0.3}, max_steps=2, health=health)
    assert "Gold against proxy" in found["vitals"] and len(set(found["looks"][0]["gold"])) == 3
    scored = RewardModel.load(judge)(["Who?", "Why?"], [["a fox", ""], ["no", "a fox"]])
    assert [len(row) for row in scored] == [2, 2]
    with pytest.raises(UserError, match="is a policy; name a reward model"):
        RewardModel.load(str(tmp_path / "run"))


def test_too_few_prompts_to_look_at_are_told(tiny_policy: Any, tokenizer: Any, tmp_path: Path, capsys: Any) -> None:
    model = saved(tiny_policy(0), tokenizer, tmp_path / "base")
    health = {"every": 1, "max_new_tokens": 2}
    run(tmp_path, model, method={"name": "mmpo", "gamma": 0.3}, max_steps=1, health=health)
    assert "health.prompts is 32, but only 6 prompts can be looked at" in capsys.readouterr().out


def test_a_model_that_is_put_back_is_judged_as_of_its_own_step(
    tiny_policy: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """The first evaluation is kept, since every later one counts as worse: the loss that should grow is falling."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    every = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}
    found = run(
        tmp_path,
        saved(tiny_policy(0), tokenizer, tmp_path / "base"),
        eval_data=rows_file(tmp_path),
        method={"name": "mmpo", "gamma": 0.3},
        health={"every": 4, "prompts": 4, "max_new_tokens": 5},
        **best,
        **every,
    )
    steps = [look["step"] for look in found["looks"]]
    kept = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["best_global_step"]
    assert kept < 12 and steps[-1] == kept and sorted(steps) == [0, 4, 8, 12]
