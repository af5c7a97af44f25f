"""The front door: each command by its name, its flags, what it prints and what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpo import __version__, cli
from mmpo.cli import main
from mmpo.cli.train import recipe_and_flags
from mmpo.errors import UserError
from mmpo.methods import CATALOGUE
from mmpo.recipe import read_recipe
from tiny import ROWS, plain, rows_file, saved


def run(*words: str) -> int:
    """The exit code of the command line."""
    with pytest.raises(SystemExit) as done:
        main(words)
    return int(done.value.code or 0)


@pytest.fixture(scope="module")
def base(tiny_reward: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tiny_reward(0), plain(tiny_tokenizer), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model trained by flags alone, some with dashes and some with underscores."""
    folder = tmp_path_factory.mktemp("trained")
    code = run(
        "train", "--model", base, "--data", rows_file(folder), "--eval-data", rows_file(folder, ROWS[:2], "eval.jsonl"),
        "--method.name", "mmpo_reward", "--method.gamma=0.5", "--output_dir", str(folder / "run"),
        "--max-length", "64", "--per_device_train_batch_size", "3", "--max-steps", "4", "--learning-rate=1e-3",
        "--save_strategy", "no", "--disable-tqdm", "true",
    )  # fmt: skip
    assert code == 0
    return folder / "run"


# ---------------------------------------------------------------------------------------------- help

COMMANDS = (
    "inspect", "train", "doctor", "score", "evaluate", "judge", "calibrate", "adapt", "compare", "dissect", "build",
    "methods", "demo",
)  # fmt: skip


def test_the_front_page_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert "graded feedback" in said and all(command in said for command in COMMANDS)
    assert {command.callback.__name__ for command in cli.app.registered_commands if command.callback} == set(COMMANDS)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("inspect", ["before any model", "--gamma", "--tokenizer", "--eval-data", "report.html"]),
        ("train", ["model, method, data and output_dir", "TrainingArguments", "--method.gamma"]),
        ("doctor", ["self-tests", "without training"]),
        ("adapt", ["new people", "few labels", "--person", "--held-out"]),
        ("compare", ["same prompts", "--scorer", "--stances", "--max-new-tokens", "samples.jsonl"]),
        ("dissect", ["people reward", "--model", "--stances"]),
        ("score", ["score to every response", "--reference", "--beta", "model_scores", "--max-length"]),
        ("evaluate", ["accuracy and calibration", "report.json", "--max-length"]),
        ("build", ["goals, weighted, instructions, variants, phrases, strength", "--goals", "--degrees", "--out"]),
        ("methods", ["catalogue", "--json"]),
        ("demo", ["known", "--out", "--seed"]),
    ],
)
def test_help_says_what_a_command_does(command: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for word in words:
        assert word in said


def test_python_m_mmpo() -> None:
    """A process of its own: the module runs, and a crash is not taken for the user's mistake."""
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "mmpo", "--version"], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"mmpo {__version__}\n")


# ---------------------------------------------------------------------------------------------- flags


def test_dashes_and_underscores_are_one(base: str, tmp_path: Path, trained: Path) -> None:
    record = json.loads((trained / "run.json").read_text())
    recipe = record["recipe"]
    assert recipe["max_length"] == 64 and recipe["method"] == {"name": "mmpo_reward", "gamma": 0.5}
    assert recipe["training"]["per_device_train_batch_size"] == 3 and recipe["training"]["learning_rate"] == 1e-3
    assert recipe["training"]["disable_tqdm"] is True
    for flag in ("--max_length", "--max-length"):
        assert run("score", str(trained), rows_file(tmp_path), "--out", str(tmp_path / "s.jsonl"), flag, "50") == 0


def test_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: m\nmethod: {name: mmpo, gamma: 2}\ndata: d\noutput_dir: o\nlearning_rate: 1e-5\n"
        "save_strategy: no\nbf16: no\n"
    )
    _, flags = recipe_and_flags(path, ["--method.gamma", "0.5", "--lora.r=8", "--max-length", "99"])
    recipe = read_recipe(path, flags)
    assert recipe.method == {"name": "mmpo", "gamma": 0.5} and recipe.lora == {"r": 8} and recipe.max_length == 99
    arguments = recipe.arguments()
    assert arguments.learning_rate == 1e-5 and arguments.save_strategy == "no" and arguments.bf16 is False


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["--bf16", "false"], {"bf16": False}),
        (["--save-strategy", "no"], {"save_strategy": "no"}),
        (["--learning_rate", "-1e-3"], {"learning_rate": -1e-3}),
        (["--report_to", "[wandb, mlflow]"], {"report_to": ["wandb", "mlflow"]}),
        (["--pad-token", "<|pad|>"], {"pad_token": "<|pad|>"}),
        (["--data=a=b.jsonl"], {"data": "a=b.jsonl"}),
        (["--model", "[unclosed"], {"model": "[unclosed"}),
    ],
)
def test_values_are_read_as_yaml(words: list[str], flags: dict[str, Any]) -> None:
    assert recipe_and_flags(None, words) == (None, flags)


def test_flags_without_a_recipe() -> None:
    assert recipe_and_flags(Path("--seed"), ["3"]) == (None, {"seed": 3})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed"], "--seed has no value"),
        (["--seed", "--bf16", "true"], "--seed has no value"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_flags_that_are_none(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_and_flags(None, words)


# ---------------------------------------------------------------------------------------------- commands


def test_train_leaves_a_run(trained: Path) -> None:
    assert json.loads((trained / "run.json").read_text())["status"] == "finished"
    assert "eval_loss" in (trained / "README.md").read_text()


def test_doctor_trains_nothing(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"model": base, "data": rows_file(tmp_path), "method": {"name": "mmpo_reward", "gamma": 0.5}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, "output_dir": str(tmp_path / "run"), "max_length": 64}))
    assert run("doctor", str(path)) == 0
    said = capsys.readouterr().out
    assert "P_ij = sigmoid(0.5 (q_i - q_j))" in said and "ok   together = alone" in said and "6 prompts" in said
    assert not (tmp_path / "run").exists()


def test_score_says_what_it_cut(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("score", str(trained), rows_file(tmp_path), "--out", str(tmp_path / "s.jsonl"), "--max-length", "30")
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "rows: 6 in, 6 used, 0 dropped" in said and "scored 16 responses of 6 prompts" in said
    assert "max_length 30: 0 of 6 prompts lost their beginning" in said and " 0 of 16 responses" not in said


def test_score_needs_no_feedback(trained: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "plain.jsonl", tmp_path / "s.jsonl"
    path.write_text('{"prompt": "One?", "responses": ["Yes."]}\n{"prompt": "Two?", "responses": ["Yes.", "No."]}\n')
    assert run("score", str(trained), str(path), "--out", str(out)) == 0
    assert [len(json.loads(line)["model_scores"]) for line in out.read_text().splitlines()] == [1, 2]
    assert run("evaluate", str(trained), str(path), "--out", str(tmp_path / "report")) == 2


def test_evaluate_measures(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    assert run("evaluate", str(trained), rows_file(tmp_path), "--out", str(out), "--max_length", "30") == 0
    report = json.loads((out / "report.json").read_text())
    overall = report["overall"]
    assert overall["n_comparisons"] == 15
    for name in ("accuracy", "ece", "brier", "nll"):
        assert overall[name]["low"] <= overall[name]["value"] <= overall[name]["high"]
    said = capsys.readouterr().out
    assert f"accuracy  {overall['accuracy']['value']:.4f}" in said and "15 comparisons; report:" in said
    assert "max_length 30" in said and (out / "report.html").stat().st_size > 1000


def test_inspect_reports(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    words = ("inspect", rows_file(tmp_path), "--out", str(out), "--tokenizer", base, "--max-length", "30")
    assert run(*words) == 0
    assert (out / "report.html").exists() and json.loads((out / "report.json").read_text())
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out


def test_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("methods") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(CATALOGUE)
    assert [line for line in lines if line in {entry.family for entry in CATALOGUE.values()}] == list(
        dict.fromkeys(entry.family for entry in CATALOGUE.values())
    )
    assert run("methods", "mmpo") == 0
    said = capsys.readouterr().out
    assert "sigmoid(2.2 (q_i - q_j))" in said and "2410.03145" in said
    assert run("methods", "--json") == 0
    assert {entry["name"] for entry in json.loads(capsys.readouterr().out)} == set(CATALOGUE)


# ---------------------------------------------------------------------------------------------- exit codes


def test_a_crash_is_not_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left to Python: a traceback and exit code 1."""

    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("mmpo.data.load", crash)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["score", "model", "data.jsonl", "--out", "x.jsonl"])


def test_a_crash_exits_with_1() -> None:
    code = (
        "import sys, mmpo.cli as cli\n"
        "cli.app.registered_commands.clear()\n"
        "cli.app.command('a')(lambda: 1 / 0)\n"
        "cli.app.command('b')(lambda: None)\n"
        "cli.main(['a'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("words", [("trian",), ("score", "model"), ("methods", "--jsonn"), ()])
def test_a_mistyped_command_line_exits_with_2(words: tuple[str, ...]) -> None:
    assert run(*words) == 2
