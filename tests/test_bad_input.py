"""Wrong input, through the real command line: exit code 2 and one line on stderr that names the place and the mend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForSequenceClassification

from mmpo.cli import main
from tiny import ROWS, plain, rows_file, saved

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def policy(tiny_policy: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tiny_policy(0), plain(tiny_tokenizer), tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def reward(tiny_reward: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tiny_reward(0), plain(tiny_tokenizer), tmp_path_factory.mktemp("reward"))


@pytest.fixture
def recipe(reward: str, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A recipe that works, with some keys changed; ``None`` takes a key out."""

    def of(rows: Any = None, **changes: Any) -> dict[str, Any]:
        content = {
            "model": reward,
            "data": rows_file(tmp_path, ROWS if rows is None else rows),
            "method": {"name": "mmpo_reward", "gamma": 0.5},
            "output_dir": str(tmp_path / "run"),
            "max_steps": 1,
            "max_length": 64,
            "disable_tqdm": True,
            **changes,
        }
        return {key: value for key, value in content.items() if value is not None}

    return of


def run(path: Path, content: Any, *flags: str) -> int:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(SystemExit) as done:
        main(["train", str(path), *flags])
    return int(done.value.code or 0)


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line that the command line answers; nothing may be trained."""

    def of(content: Any, *flags: str) -> str:
        capsys.readouterr()
        assert run(tmp_path / "recipe.yaml", content, *flags) == 2
        said = capsys.readouterr().err.splitlines()
        lines = [line for line in said if line.startswith("mmpo: ")]
        assert len(lines) == 1 and lines[0] == said[-1] and "Traceback" not in "".join(said)
        assert not (tmp_path / "run").exists()
        return lines[0]

    return of


def test_the_recipe_of_these_tests_works(recipe: Any, tmp_path: Path) -> None:
    assert run(tmp_path / "recipe.yaml", recipe()) == 0


# ---------------------------------------------------------------------------------------------- rows

PAIR = {"prompt": "Who?", "chosen": "The fox", "rejected": "A plum"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**ROWS[0], "scores": [float("nan"), 1]}, ["scores[0] is NaN", "give a finite number"]),
        ({**ROWS[0], "scores": [None, 1]}, ["scores[0] is null", "give a finite number"]),
        ({**ROWS[0], "scores": [1]}, ["scores has 1 entries for 2"]),
        ({**ROWS[0], "responses": ["", "x"]}, ["responses[0] is empty", "give the response"]),
        ({**ROWS[0], "responses": ["x"]}, ["responses has 1 entries; give at least 2"]),
        ({"prompt": "Who?", "responses": ["a", "b"], "votes": [0, 2]}, ["votes[1] is 2", "0 (first), 1 (second)"]),
        ({"prompt": "Who?", "responses": ["a", "b"], "p_first": 1.2}, ["p_first is 1.2", "between 0 and 1"]),
        ({"prompt": " ", "responses": ["a", "b"], "scores": [1, 2]}, ["prompt is empty"]),
        ({"text": "x"}, ["no known row shape", "the columns are text"]),
    ],
)
def test_a_bad_row_is_named_or_dropped_and_counted(
    row: dict[str, Any], words: list[str], recipe: Any, refused: Refused, tmp_path: Path, capsys: Any
) -> None:
    content = recipe(rows=[*ROWS, row])
    line = refused(content)
    for word in (f"{content['data']}:7: ", *words, "drop the row (on_bad_row: drop)"):
        assert word in line
    assert run(tmp_path / "recipe.yaml", {**content, "on_bad_row": "drop"}) == 0
    assert "rows: 7 in, 6 used, 1 dropped" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["rows_dropped"] == 1


def test_a_null_margin(recipe: Any, refused: Refused) -> None:
    rows = [{**PAIR, "margin": 1.5}, {**PAIR, "margin": None}]
    content = recipe(rows=rows)
    content["data"] = {"path": content["data"], "margin": "gap"}
    line = refused(content)
    assert f"{content['data']['path']}:2: margin is null; give a finite number" in line


def test_a_margin_of_unstated_meaning(recipe: Any, refused: Refused) -> None:
    line = refused(recipe(rows=[{**PAIR, "margin": 1.5}]))
    assert "the column 'margin' means two things" in line and "set margin to 'gap'" in line and "'offset'" in line


def test_a_margin_that_the_method_would_ignore(recipe: Any, refused: Refused) -> None:
    content = recipe(rows=[{**PAIR, "margin": 1.5}], method="bradley_terry")
    content["data"] = {"path": content["data"], "margin": "offset"}
    assert "declared an additive offset, which this method does not use" in refused(content)


def test_grades_needed_and_only_labels_there(recipe: Any, refused: Refused) -> None:
    line = refused(recipe(rows=[PAIR, {**PAIR, "prompt": "What?"}]))
    assert "needs graded feedback" in line and "all 2 comparisons are bare labels" in line and "bradley_terry" in line


# ---------------------------------------------------------------------------------------------- lengths and tokens


def test_a_prompt_longer_than_max_length(recipe: Any, refused: Refused, tmp_path: Path, capsys: Any) -> None:
    long = {**ROWS[0], "prompt": "Is this answer good? " * 20}
    content = recipe(rows=[*ROWS, long])
    line = refused(content)
    assert f"{content['data']}:7: the prompt has " in line and "max_length 64 leaves no room" in line
    assert "max_prompt_length" in line
    assert run(tmp_path / "recipe.yaml", {**content, "on_bad_row": "drop"}) == 0
    assert "1 prompts dropped: no room for a response" in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["tokens"]["dropped"]["no room for a response"]["count"] == 1 and record["prompts"] == 6


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_a_missing_pad_token(
    kind: str, tiny_policy: Any, tiny_reward: Any, tiny_tokenizer: Any, recipe: Any, refused: Refused, tmp_path: Path
) -> None:
    tokenizer = plain(tiny_tokenizer)
    tokenizer.pad_token = None
    model = tiny_policy(0) if kind == "policy" else tiny_reward(0)
    folder = saved(model, tokenizer, tmp_path / "model")
    content = recipe(model=folder, method="dpo" if kind == "policy" else "bradley_terry")
    line = refused(content)
    assert f"the tokenizer of {folder} has no pad token; name one with pad_token" in line
    if kind == "reward":
        line = refused({**content, "pad_token": "</s>"})
        assert "uses its end-of-text token for padding" in line
    assert run(tmp_path / "recipe.yaml", {**content, "pad_token": "<|pad|>"}) == 0


# ---------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learnin_rate": 1}, ["unknown key 'learnin_rate'. Did you mean 'learning_rate'?"]),
        ({"methods": "dpo"}, ["unknown key 'methods'. Did you mean 'method'?"]),
        ({"shape": {"max_pair": 2}}, ["unknown key 'shape.max_pair'. Did you mean 'max_pairs'?"]),
        ({"method": "mmpo_rewrd"}, ["unknown method 'mmpo_rewrd'. Did you mean 'mmpo_reward'?"]),
        ({"method": {"name": "mmpo_reward", "gama": 1}}, ["has no parameter 'gama'. Did you mean 'gamma'?"]),
        ({"method": {"name": "mmpo_reward", "gamma": "high"}}, ["method.gamma is 'high'; a number is needed"]),
        ({"method": {"gamma": 1}}, ["method has no name"]),
        ({"model": None}, ["'model' is missing"]),
        ({"data": None}, ["'data' is missing"]),
        ({"output_dir": None}, ["'output_dir' is missing"]),
        ({"data": []}, ["data: "]),
        ({"data": {"path": "x", "wieght": 2}}, ["unknown key 'wieght'. Did you mean 'weight'?"]),
        ({"data": "absent.jsonl"}, ["absent.jsonl", "no such file"]),
        ({"eval_data": "absent.jsonl"}, ["absent.jsonl", "no such file"]),
        ({"model": "./absent"}, ["there is no folder ./absent; give the folder of a saved model or a hub id"]),
        ({"task": "policy"}, ["method 'mmpo_reward' trains a reward model, but task is 'policy'"]),
        ({"method": "dpo", "reference": "adapter"}, ["reference is 'adapter' but there is no lora"]),
        ({"reference": "copy"}, ["the method uses no reference"]),
        ({"method": "dpo", "reference": "frozen"}, ["reference: "]),
        ({"lora": {"rank": 4}}, ["lora has no key 'rank'"]),
        ({"max_length": 1}, ["max_length is 1"]),
        ({"max_length": "long"}, ["max_length: "]),
        ({"max_prompt_length": 64}, ["max_prompt_length is 64; it must be positive and below max_length"]),
        ({"dtype": "float8"}, ["dtype: "]),
        ({"on_bad_row": "skip"}, ["on_bad_row: "]),
        ({"seed": "x"}, ["seed is 'x'"]),
        ({"eval_strategy": "sometimes"}, ["sometimes", "Known: epoch, no, steps"]),
        ({"report_to": "nonsense"}, ["nonsense"]),
        ({"report_to": "clearml"}, ["report_to names 'clearml', which is not installed"]),
        ({"label_smoothing_factor": 0.1}, ["'label_smoothing_factor' may not be set", "cdpo"]),
        ({"resume_from_checkpoint": "x"}, ["'resume_from_checkpoint' may not be set"]),
        ({"load_best_model_at_end": True}, ["recipe"]),
    ],
)
def test_a_wrong_key_is_named(change: dict[str, Any], words: list[str], recipe: Any, refused: Refused) -> None:
    content = recipe(**change) if None not in change.values() else recipe()
    for key in [key for key, value in change.items() if value is None]:
        del content[key]
    line = refused(content)
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- a\n- b\n", "a recipe is a mapping of keys to values"),
        ("", "a recipe is a mapping of keys to values"),
        ("just words", "a recipe is a mapping of keys to values"),
        ("model: [a\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe(content: str, words: str, refused: Refused, tmp_path: Path) -> None:
    line = refused(content)
    assert f"{tmp_path / 'recipe.yaml'}: " in line and words in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--max_length",), "--max_length has no value; write --max_length VALUE"),
        (("--max_length", "--seed", "3"), "--max_length has no value"),
        (("--max_lenght", "9"), "unknown key 'max_lenght'. Did you mean 'max_length'?"),
        (("--method.gama", "9"), "has no parameter 'gama'"),
        (("--seed.x", "9"), "unknown key 'seed'|'seed' is .* no mapping|seed is"),
        (("stray",), "unexpected argument 'stray'"),
    ],
)
def test_a_wrong_flag_is_named(flags: tuple[str, ...], words: str, recipe: Any, refused: Refused) -> None:
    line = refused(recipe(), *flags)
    assert any(word in line for word in words.split("|"))


def test_a_recipe_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["train", "absent.yaml"])
    assert done.value.code == 2
    assert capsys.readouterr().err.startswith("mmpo: absent.yaml: cannot be read (No such file or directory)")


# ---------------------------------------------------------------------------------------------- the other commands


def refused_by(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        main(words)
    assert done.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mmpo: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("command", ["score", "evaluate"])
def test_models_and_data_that_do_not_serve(
    command: str, policy: str, reward: str, tiny_tokenizer: Any, tmp_path: Path, capsys: Any
) -> None:
    rows, out = rows_file(tmp_path), ("--out", str(tmp_path / "out"))
    assert "there is no folder" in refused_by(capsys, command, "./absent", rows, *out)
    assert "no such file" in refused_by(capsys, command, reward, "absent.jsonl", *out)
    assert "give --reference" in refused_by(capsys, command, policy, rows, *out)
    assert "it has no reference and no beta" in refused_by(capsys, command, reward, rows, *out, "--beta", "1")
    bad = rows_file(tmp_path, [*ROWS, {**ROWS[0], "scores": [1, None]}], "bad.jsonl")
    assert f"{bad}:7: scores[1] is null" in refused_by(capsys, command, reward, bad, *out)
    assert "leaves no room" in refused_by(capsys, command, reward, rows, *out, "--max-length", "5")
    two = AutoModelForSequenceClassification.from_pretrained(reward, num_labels=2, ignore_mismatched_sizes=True)
    folder = saved(two, plain(tiny_tokenizer), tmp_path / "two")
    assert "a reward model needs one label" in refused_by(capsys, command, folder, rows, *out)
    (Path(folder) / "run.json").write_text("{")
    assert "run.json: not valid JSON" in refused_by(capsys, command, folder, rows, *out)


def test_scores_do_not_go_into_a_folder(reward: str, tmp_path: Path, capsys: Any) -> None:
    line = refused_by(capsys, "score", reward, rows_file(tmp_path), "--out", str(tmp_path))
    assert line == f"mmpo: --out {tmp_path} is a folder; name a new .jsonl file"
    rows = rows_file(tmp_path)
    before = Path(rows).read_text()
    assert "is the data itself" in refused_by(capsys, "score", reward, rows, "--out", rows)
    assert Path(rows).read_text() == before


def test_methods_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused_by(capsys, "methods", "mmp0") == "mmpo: unknown method 'mmp0'. Did you mean 'mmpo'?"


def test_inspect_reads_gamma(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused_by(capsys, "inspect", rows_file(tmp_path), "--out", str(tmp_path / "r"), "--gamma", "high")
    assert line == "mmpo: --gamma is 'high'; give a number or auto"


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_a_name_that_says_otherwise_is_refused(suffix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows, out = rows_file(tmp_path), tmp_path / f"built{suffix}"
    assert "end it in .jsonl" in refused_by(capsys, "build", "phrases", rows, "--out", str(out))
    assert not out.exists()
