"""The record of a run: what it holds, whom it tells nothing, and that the run can be repeated from it."""

from __future__ import annotations

import json
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from mmpo.cli import main
from mmpo.models.store import weights_digest
from mmpo.run.provenance import command, git_state, versions
from mmpo.run.record import read_record
from mmpo.run.repeat import check_same
from tiny import ROWS, plain, rows_file, saved


def run(*words: str) -> None:
    try:
        main(["train", *words, "--disable_tqdm", "true"])
    except SystemExit as left:
        if left.code:
            raise


@pytest.fixture(scope="module")
def done(tiny_reward: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, with rows that are dropped and columns that nobody reads."""
    folder = tmp_path_factory.mktemp("record")
    base = saved(tiny_reward(0), plain(tiny_tokenizer), folder / "base")
    rows = [*({**row, "source": "web"} for row in ROWS), {"prompt": "A?", "responses": ["one", 2], "scores": [1, 2]}]
    data, held_out = rows_file(folder, rows), rows_file(folder, ROWS[:3], "held_out.jsonl")
    more = ["--max_steps", "6", "--per_device_train_batch_size", "4", "--learning_rate", "1e-3", "--shape.spread", "2"]
    more += ["--max_length", "24", "--on_bad_row", "drop", "--max_bad_rows", "1", "--seed", "3", "--lora.r", "4"]
    given = ["--model", base, "--data", data, "--eval_data", held_out, "--method", "mmpo_reward"]
    run(*given, "--output_dir", str(folder / "run"), *more)
    return folder


def test_the_record_is_complete(done: Path) -> None:
    record = read_record(done / "run")
    data = record["data"]
    assert data["rows_in"] == 7 == data["rows_used"] + data["rows_dropped"]
    assert data["rows_dropped"] == 1
    assert "responses" in str(data["dropped"])
    assert data["columns_used"] == ["prompt", "responses", "scores"]
    assert data["columns_unused"] == ["source"]
    cuts = record["tokens"]
    assert cuts["responses_cut"] + cuts["prompts_cut"] > 0
    assert record["equation"].startswith("P_ij = sigmoid(2.2 (q_i - q_j))")
    assert record["versions"] == versions()
    assert record["versions"].keys() >= {"mmpo", "python", "torch", "transformers", "tokenizers", "accelerate", "peft"}
    assert (record["seed"], record["status"], record["trackers_lost"]) == (3, "finished", {})
    assert record["contents"].keys() == {str(done / "rows.jsonl"), str(done / "held_out.jsonl")}
    base = AutoModelForSequenceClassification.from_pretrained(done / "base")
    assert record["weights"]["start"] == weights_digest(base)
    whole = sha256((done / "run" / "model.safetensors").read_bytes()).hexdigest()
    assert record["weights"]["result"] == {"model.safetensors": whole}
    (start,) = record["starts"]
    assert start["from"] is None
    assert start["world_size"] == 1
    assert start["at"] <= record["written"]
    assert record["peak_memory"]["main"] > 1e8


def test_a_run_is_repeated_from_its_record(done: Path) -> None:
    """To the bit; the new run's own record differs in nothing that the first one was made of."""
    run(str(done / "run" / "run.json"), "--output-dir", str(done / "again"))
    one, other = (load_file(done / name / "model.safetensors") for name in ("run", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    first, second = (read_record(done / name) for name in ("run", "again"))
    for key in ("equation", "data", "tokens", "contents", "texts", "versions", "seed", "gamma", "steps"):
        assert first[key] == second[key], key
    assert first["weights"] == second["weights"]


def test_a_repetition_with_another_key_is_another_run(done: Path) -> None:
    run(str(done / "run" / "run.json"), "--output-dir", str(done / "faster"), "--learning_rate", "1e-2")
    one, other = (load_file(done / name / "model.safetensors") for name in ("run", "faster"))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def refused(done: Path, capsys: Any, *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        run(str(done / "run" / "run.json"), *words)
    assert caught.value.code == 2
    return str(capsys.readouterr().err).strip().splitlines()[-1]


def test_other_data_are_refused_by_name(done: Path, capsys: Any) -> None:
    path = done / "held_out.jsonl"
    before = path.read_text()
    path.write_text(before.replace("Paris", "Lyons"))
    try:
        told = refused(done, capsys, "--output-dir", str(done / "other"))
    finally:
        path.write_text(before)
    assert told == (f"mmpo: {path}: it does not hold what the recorded run was trained on; restore it from a copy")
    assert not (done / "other" / "model.safetensors").exists()


def test_other_weights_are_refused(done: Path) -> None:
    record = read_record(done / "run")
    now = {**record, "weights": {"start": "another"}}
    with pytest.raises(Exception, match="base has other weights than the recorded run began with"):
        check_same(record, now)
    assert check_same(record, record) == []
    older = {**record, "versions": {**record["versions"], "torch": "1.0"}}
    assert check_same(older, record)[0].startswith("other versions than those of the recorded run: torch 1.0 -> ")


def test_a_record_needs_a_recipe_and_a_folder(done: Path, tmp_path: Path, capsys: Any) -> None:
    assert "add --output-dir" in refused(done, capsys)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"status": "finished"}))
    assert "no recipe stands in it" in refused(tmp_path, capsys, "--output-dir", "x")


def test_a_command_line_without_its_secrets() -> None:
    told = command(["/usr/bin/mmpo", "train", "r.yaml", "--hub-token", "hf_x", "--api_key=sk-1", "--seed", "3"])
    assert told == "mmpo train r.yaml --hub-token ... --api_key=... --seed 3"
    assert command(["/lib/mmpo/__main__.py", "train", "a b.yaml"]) == "python -m mmpo train 'a b.yaml'"


def test_the_state_of_git(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "a")
    commit = git("rev-parse", "HEAD")
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}
