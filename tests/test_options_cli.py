"""Every option of every command reaches what reads it: an impossible value is refused there, by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from mmpo.cli import app, main
from mmpo.recipe import make_recipe
from mmpo.train import train_recipe
from tiny import ROWS, plain, rows_file, saved

COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
RECIPES = ("train", "doctor")
"""Commands whose flags are the keys of a recipe; see test_options.py."""

IMPOSSIBLE: dict[str, str] = {
    "--split": "nowhere",
    "--margin": "wide",
    "--grade": "charm",
    "--tokenizer": "/nowhere",
    "--max-length": "0",
    "--max-prompt-length": "-1",
    "--eval-data": "/nowhere.jsonl",
    "--gamma": "steep",
    "--on-bad-row": "ignore",
    "--max-bad-rows": "-1",
    "--reference": "/nowhere",
    "--beta": "-1",
    "--read-as": "poem",
    "--pad-token": "",
    "--dtype": "float1",
    "--questions": "/nowhere",
    "--baseline": "/nowhere",
    "--references": "/nowhere",
    "--prompts": "/nowhere",
    "--mode": "loud",
    "--weights": "/nowhere",
    "--answers": "/nowhere",
    "--model-url": "nowhere",
    "--model-key-env": "NO_SUCH_KEY",
    "--model-options": "{",
    "--answer-tokens": "0",
    "--judge-url": "nowhere",
    "--judge-model": "",
    "--judge-key-env": "NO_SUCH_KEY",
    "--judge-options": "{",
    "--judge-tokens": "0",
    "--attempts": "0",
    "--concurrency": "0",
    "--requests-per-minute": "0",
    "--tokens-per-minute": "0",
    "--timeout": "0",
    "--patience": "-1",
    "--others": "/nowhere",
    "--length-prior": "mine",
    "--method": "magic",
    "--folds": "1",
    "--scorer": "/nowhere",
    "--stances": "/nowhere",
    "--model": "/nowhere",
    "--n": "0",
    "--max-new-tokens": "0",
    "--temperature": "-1",
    "--top-p": "2",
    "--limit": "0",
    "--goals": "much",
    "--place": "outside",
    "--k": "0",
    "--degrees": "0",
    "--flip": "2",
    "--soften": "2",
    "--eps": "2",
    "--seed": "-1",
    "--person": "nobody",
    "--smooth": "-1",
    "--template": "nothing to fill",
    "--components": "all",
    "--scales": "wide",
    "--rubric": "purple",
    "--student": "/nowhere",
    "--aggregate": "purple",
    "--held-out": "/nowhere",
    "--attributes": "purple",
}
"""A value of each option that nothing can work with."""

NEEDS: dict[str, tuple[str, ...]] = {
    "--max-bad-rows": ("--on-bad-row", "drop"),
    "--judge-model": ("--judge-url", "http://localhost:1/v1"),
    "--place": ("--goals", "1"),
    "--eps": ("--soften", "0.1"),
    "--aggregate": ("--student", "@policy"),
    "--max-length": ("--tokenizer", "@policy"),
    "--max-prompt-length": ("--tokenizer", "@policy"),
    "--model-key-env": ("--model-url", "http://localhost:1/v1"),
    "--model-options": ("--model-url", "http://localhost:1/v1"),
}
"""What must stand beside an option for its value to be read."""

ROWS_OF_DATA = ("--split", "--margin", "--grade", "--on-bad-row", "--max-bad-rows")

KINDS = {
    "--k": "instructions",
    "--degrees": "variants",
    "--flip": "strength",
    "--soften": "strength",
    "--eps": "strength",
    "--template": "contexts",
    "--components": "outcomes",
    "--scales": "outcomes",
    "--rubric": "outcomes",
    "--student": "outcomes",
    "--aggregate": "outcomes",
}
"""The kind of ``mmpo build`` that an option is for; the others are for goals."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any, tiny_policy: Any, tiny_reward: Any, tiny_tokenizer: Any) -> dict[str, str]:
    folder, tokenizer = tmp_path_factory.mktemp("place"), plain(tiny_tokenizer)
    asked = [{"instruction": "Who?", "dataset": "koala"}]
    (folder / "prompts.txt").write_text("Who?\nWhy?\n")
    (folder / "baseline.json").write_text(json.dumps([{**row, "output": "I.", "generator": "base"} for row in asked]))
    (folder / "questions.json").write_text(json.dumps(asked))
    bare = [{"prompt": row["prompt"], "chosen": row["responses"][0], "rejected": row["responses"][1]} for row in ROWS]
    policy, ours = saved(tiny_policy(0), tokenizer, folder / "policy"), [{**row, "annotator": "ann"} for row in ROWS]
    people = {
        "model": policy,
        "data": rows_file(folder, ours, "ours.jsonl"),
        "method": "pal_a",
        "output_dir": str(folder / "people"),
        "max_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    train_recipe(make_recipe(people))
    return {
        "people": str(folder / "people"),
        "named": rows_file(folder, [{**row, "annotator": "eve"} for row in ROWS], "named.jsonl"),
        "reward": saved(tiny_reward(0), tokenizer, folder / "reward"),
        "policy": policy,
        "other": saved(tiny_policy(1), tokenizer, folder / "other"),
        "rows": rows_file(folder),
        "bad": rows_file(folder, [*ROWS, {"prompt": "no responses"}], "bad.jsonl"),
        "bare": rows_file(folder, bare, "bare.jsonl"),
        "prompts": str(folder / "prompts.txt"),
        "questions": str(folder / "questions.json"),
        "baseline": str(folder / "baseline.json"),
    }


def words(command: str, place: dict[str, str], out: Path, option: str = "") -> list[str]:
    """A command line that works, on which ``option`` can be put."""
    judge = ["--questions", place["questions"], "--judge-url", "http://localhost:1/v1", "--judge-model", "judge"]
    tail = ["--out", str(out)]
    return {
        "inspect": ["inspect", place["rows"], *tail],
        "score": ["score", place["policy"], place["rows"], "--reference", place["other"], "--out", f"{out}.jsonl"],
        "evaluate": ["evaluate", place["policy"], place["rows"], "--reference", place["other"], *tail],
        "calibrate": ["calibrate", place["policy"], place["rows"], "--reference", place["other"]],
        "adapt": ["adapt", place["people"], place["named"], *tail],
        "compare": ["compare", place["policy"], place["other"], place["prompts"], "--max-new-tokens", "2", *tail],
        "dissect": ["dissect", place["rows"], *tail],
        "judge": ["judge", "alpaca-eval", place["policy"], "--baseline", place["baseline"], *judge, "--dry-run", *tail],
        "build": ["build", KINDS.get(option, "goals"), place["rows"], "--out", f"{out}.jsonl"],
        "demo": ["demo", *tail],
        "methods": ["methods"],
    }[command]


def put(line: list[str], option: str, value: str) -> list[str]:
    """The command line with the option, in the place of one that is there."""
    if option not in line:
        return [*line, option, value]
    at = line.index(option) + 1
    return [*line[:at], value, *line[at + 1 :]]


def code(line: list[str]) -> int:
    with pytest.raises(SystemExit) as done:
        main(line)
    return done.value.code if isinstance(done.value.code, int) else 0


def options() -> Iterator[Any]:
    for command, found in COMMANDS.items():
        for parameter in found.params if command not in RECIPES else ():
            option = parameter.opts[-1]
            if option.startswith("--") and not getattr(parameter, "is_flag", False) and option != "--out":
                yield pytest.param(command, option, id=f"{command} {option}")


@pytest.mark.parametrize(("command", "option"), [*options()])
def test_an_impossible_value_is_refused_by_name(
    command: str, option: str, place: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is never read could not refuse it."""
    line, value = words(command, place, tmp_path / "out", option), IMPOSSIBLE[option]
    beside = NEEDS.get(option, ())
    if beside and beside[0] not in line and beside[0] in {p.opts[-1] for p in COMMANDS[command].params}:
        line += [place[word[1:]] if word.startswith("@") else word for word in beside]
    if command == "compare" and option in ("--reference", "--beta", "--read-as", "--max-length", "--max-prompt-length"):
        line += ["--scorer", place["policy"], "--reference", place["other"]]
    if command == "judge" and option in ("--dtype", "--pad-token", "--model-key-env"):
        line.remove("--dry-run")  # which loads nothing and asks nobody
    if command == "dissect" and option in (
        "--reference",
        "--beta",
        "--read-as",
        "--max-length",
        "--pad-token",
        "--dtype",
    ):
        line += ["--model", place["policy"]]
    assert code(put(line, option, value)) == 2
    said = capsys.readouterr().err
    assert option in said or option[2:].replace("-", "_") in said or (value and value in said)


@pytest.mark.parametrize("command", ["inspect", "score", "evaluate", "calibrate", "dissect", "build"])
def test_bad_rows_are_met_as_asked(
    command: str, place: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [place["bad"] if word == place["rows"] else word for word in words(command, place, tmp_path / "out")]
    assert code([*line, "--on-bad-row", "error"]) == 2
    assert "bad.jsonl:7" in capsys.readouterr().err
    more = ["--max-bad-rows", "1"] if command != "inspect" else []
    assert code([*line, "--on-bad-row", "drop", *more]) == 0
    if more:
        assert code([*line, "--on-bad-row", "drop", "--max-bad-rows", "0"]) == 2
        assert "max_bad_rows" in capsys.readouterr().err


def left(line: list[str], out: Path) -> str:
    assert code(line) == 0
    return "".join(path.read_text() for path in sorted(out.parent.rglob("*.json*")) if path.is_file())


@pytest.mark.parametrize("command", ["build", "compare", "dissect"])
def test_a_seed_changes_what_is_drawn(command: str, place: dict[str, str], tmp_path: Path) -> None:
    found = []
    for seed in ("1", "2"):
        out = tmp_path / seed / "out"
        out.parent.mkdir()
        found.append(left([*words(command, place, out, "--k"), "--seed", seed], out))
    assert found[0] != found[1]


def test_the_seed_of_the_demo_and_of_a_judged_benchmark_arrive(
    place: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr("mmpo.demo.run.run", lambda out, seed: given.append(seed))
    assert code(["demo", "--out", str(tmp_path), "--seed", "7"]) == 0
    monkeypatch.setattr("mmpo.evaluate.judged.benchmark.Counting", lambda seed, prior: given.append(seed))
    assert code([*words("judge", place, tmp_path / "out"), "--seed", "8"]) == 0
    assert given == [7, 8]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["inspect", "@rows", "--trust-remote-code"], "--trust-remote-code is for the code of a tokenizer"),
        (["inspect", "@bare", "--gamma", "1.5"], "gamma is 1.5, but the data say only which response is better"),
        (["inspect", "@rows", "--max-length", "9"], "max_length is counted in tokens; name the tokenizer"),
        (["build", "strength", "@rows", "--eps", "0.3"], "--eps says by how much labels are smoothed, and none are"),
        (["dissect", "@rows", "--dtype", "bfloat16"], "--dtype says how a model is read; give --model"),
        (["dissect", "@rows", "--timeout", "9"], "--timeout says how a judge is asked; give --judge-url"),
        (["compare", "@policy", "@other", "@prompts", "--n", "2", "--temperature", "0"], "the same answer 2 times"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    line: list[str], message: str, place: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [place[word[1:]] if word.startswith("@") else word for word in line]
    assert code([*given, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


SWITCHES: dict[str, Callable[..., Any]] = {}
"""The test that shows each switch."""


def shows(*switches: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def note(test: Callable[..., Any]) -> Callable[..., Any]:
        SWITCHES.update(dict.fromkeys(switches, test))
        return test

    return note


@shows("--json")
def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert code(["methods", "dpo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "dpo"
    assert code(["methods", "dpo"]) == 0
    assert capsys.readouterr().out.startswith("dpo (policy)")


@shows("--dry-run")
def test_a_dry_run_asks_nobody(place: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(words("judge", place, tmp_path / "out")) == 0
    assert "report:" not in capsys.readouterr().out and not (tmp_path / "out" / "report.html").exists()


@shows("--pooled")
def test_pooled_contexts_are_one_row(tmp_path: Path) -> None:
    stated = [{"context": "Be short.", "preferred": 0}, {"context": "Be long.", "preferred": 1}]
    rows = rows_file(
        tmp_path, [{"prompt": "Who?", "responses": ["I.", "It is I."], "contexts": stated}], "contexts.jsonl"
    )
    line = ["build", "contexts", rows, "--out"]
    assert code([*line, str(tmp_path / "each.jsonl")]) == code([*line, str(tmp_path / "one.jsonl"), "--pooled"]) == 0
    assert [len((tmp_path / f"{name}.jsonl").read_text().splitlines()) for name in ("each", "one")] == [2, 1]


@shows("--trust-remote-code")
@pytest.mark.parametrize("command", ["inspect", "score", "evaluate", "calibrate", "compare", "dissect"])
def test_code_of_a_model_runs_where_it_is_asked_for(command: str, place: dict[str, str], tmp_path: Path) -> None:
    custom, marker = tmp_path / "custom", tmp_path / "ran"
    custom.mkdir()
    for path in Path(place["policy"]).iterdir():
        (custom / path.name).symlink_to(path)
    config = json.loads((custom / "config.json").read_text())
    (custom / "config.json").unlink()
    (custom / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "own.Own"}}))
    own = "from transformers import LlamaConfig\nclass Own(LlamaConfig):\n    pass\n"
    (custom / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n{own}")
    line = [str(custom) if word == place["policy"] else word for word in words(command, place, tmp_path / "out")]
    line += {"inspect": ["--tokenizer", str(custom)], "dissect": ["--model", str(custom)]}.get(command, [])
    code(line)
    assert not marker.exists()
    code([*line, "--trust-remote-code"])
    assert marker.exists()


def test_every_switch_is_shown() -> None:
    found = {
        p.opts[-1]
        for name, one in COMMANDS.items()
        if name not in RECIPES
        for p in one.params
        if getattr(p, "is_flag", False)
    }
    assert found == {*SWITCHES}
