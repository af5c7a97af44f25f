"""Every kind of model as a scorer of suites, and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForSequenceClassification

from conftest import tiny_config
from mmpo.cli import main
from mmpo.errors import UserError
from mmpo.evaluate.scoring import READ_AS, Scorer
from mmpo.evaluate.suites import SUITES, Made, evaluate_suite
from mmpo.evaluate.suites.rules import each_subset, pooled, stacked, strict
from mmpo.types import About, Datum
from tiny import ROWS, plain, saved

DATA = [Datum(str(n), row["prompt"], tuple(row["responses"])) for n, row in enumerate(ROWS)]
SUBSETS = ("mt-bench-med", "hep-go", "hep-go", "donotanswer", "shp", "shp")
PAIRS = [
    {"prompt": row["prompt"], "chosen": row["responses"][0], "rejected": row["responses"][1], "subset": subset, "id": n}
    for n, (row, subset) in enumerate(zip(ROWS, SUBSETS, strict=True))
]
STYLES = [
    {"id": n, "prompt": row["prompt"], "chosen": row["responses"][:1] * 3, "rejected": row["responses"][1:2] * 3}
    | {"domain": ["chat", "code", "math"][n % 3]}
    for n, row in enumerate(ROWS)
]


@pytest.fixture(scope="module")
def folders(tiny_policy: Any, tiny_reward: Any, tiny_tokenizer: Any, tmp_path_factory: Any) -> dict[str, str]:
    tokenizer, root = plain(tiny_tokenizer), tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    embedding = LlamaForSequenceClassification(tiny_config(tiny_tokenizer, num_labels=4))
    made = {"policy": tiny_policy(0), "base": tiny_policy(1), "reward": tiny_reward(0), "embedding": embedding}
    return {name: saved(model, tokenizer, root / name) for name, model in made.items()}


# ---------------------------------------------------------------------------------------------- ways to read a model


def test_a_model_of_several_outputs_is_read_as_margins(folders: dict[str, str]) -> None:
    scorer = Scorer.load(folders["embedding"], read_as="preference", beta=1.0)
    scored = scorer(DATA)
    assert scored.margins is not None and scored.said is scored.margins
    reader = Scorer.load(folders["embedding"], read_as="preference")
    for datum, m, rewards, tenfold in zip(DATA, scored.margins, scored.rewards, reader(DATA).margins, strict=True):
        texts = [datum.prompt + r + scorer.tokenizer.eos_token for r in datum.responses]
        batch = scorer.tokenizer(texts, return_tensors="pt", padding=True)
        with torch.no_grad():
            v = scorer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        by_hand = v[:, 0, None] * v[None, :, 1] - v[:, 1, None] * v[None, :, 0]
        by_hand = by_hand + v[:, 2, None] * v[None, :, 3] - v[:, 3, None] * v[None, :, 2]
        assert np.allclose(m, by_hand, atol=1e-5) and abs(m).max() > 1e-4
        assert np.allclose(rewards, np.mean(m, 1), atol=1e-6)
        assert np.allclose(tenfold, 10 * m, atol=1e-4)


def test_margins_leave_out_responses_beside_the_answers(folders: dict[str, str]) -> None:
    beside = replace(DATA[1], about=(About(), About(role="rationale"), About()))
    scorer = Scorer.load(folders["embedding"], read_as="preference")
    (m,), (whole,) = scorer([beside]).margins or [], scorer([DATA[1]]).margins or []
    assert np.isnan(m[1]).all() and np.isnan(m[:, 1]).all()
    assert np.allclose(m[np.ix_([0, 2], [0, 2])], whole[np.ix_([0, 2], [0, 2])], atol=1e-6)


def test_the_ways_to_read_a_policy_are_related(folders: dict[str, str]) -> None:
    def read(name: str, **more: Any) -> tuple[np.ndarray, np.ndarray]:
        scored = Scorer.load(folders["policy"], read_as=name, **more)(DATA)
        return np.concatenate(scored.rewards), np.concatenate(scored.lengths)

    total, lengths = read("log_prob")
    base = np.concatenate(Scorer.load(folders["base"], read_as="log_prob")(DATA).rewards)
    assert (total < 0).all()
    assert read("mean_log_prob", beta=1.0)[0] == pytest.approx(total / lengths, rel=1e-5)
    ratio = read("log_ratio", reference=folders["base"], beta=0.5)[0]
    assert ratio == pytest.approx(0.5 * (total - base), abs=1e-4)
    assert read("mean_log_ratio", reference=folders["base"])[0] == pytest.approx((total - base) / lengths, abs=1e-5)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("policy", {"read_as": "log_prb"}, "read_as: unknown name 'log_prb'. Did you mean 'log_prob'?"),
        ("policy", {"read_as": "preference"}, "is a policy: preference reads a sequence classifier"),
        ("policy", {"read_as": "mean_log_ratio"}, "give --reference, or --read-as mean_log_prob"),
        ("policy", {"read_as": "log_prob", "reference": "base"}, "needs no reference; leave it out"),
        ("reward", {"read_as": "log_prob"}, "is a reward model and has no log_prob"),
        ("reward", {"read_as": "preference"}, "has 1 output; leave out read_as"),
        ("embedding", {}, "has 4 labels, and a reward model needs one label"),
        ("embedding", {"read_as": "preference", "reference": "base"}, "it has no reference"),
    ],
)
def test_readings_that_mean_nothing_are_refused(
    folders: dict[str, str], model: str, given: dict[str, Any], message: str
) -> None:
    if "reference" in given:
        given = {**given, "reference": folders[given["reference"]]}
    with pytest.raises(UserError) as caught:
        Scorer.load(folders[model], **given)
    assert message in str(caught.value)


def test_any_model_takes_a_suite(folders: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(PAIRS))
    scorers = {
        "reward": Scorer.load(folders["reward"]),
        "embedding": Scorer.load(folders["embedding"], read_as="preference"),
        **{
            name: Scorer.load(folders["policy"], read_as=name, reference=folders["base"] if "ratio" in name else None)
            for name in READ_AS
            if name != "preference"
        },
    }
    data = [Datum(str(n), p["prompt"], (p["chosen"], p["rejected"])) for n, p in enumerate(PAIRS)]
    for name, scorer in scorers.items():
        outcome = evaluate_suite("rewardbench", scorer, str(path), bootstrap=2)
        said = [np.asarray(row) for row in scorer(data).said]
        right = [float(row[0] > row[1] if row.ndim == 1 else row[0, 1] > 0) for row in said]
        assert outcome.subsets["hep-go"].value == np.mean(right[1:3]), name
        assert outcome.subsets["shp"].value == np.mean(right[4:]), name


def test_what_is_cut_is_told(folders: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(PAIRS))
    outcome = evaluate_suite("rewardbench", Scorer.load(folders["reward"], max_length=20), str(path), bootstrap=2)
    (line,) = [note for note in outcome.notes if note.startswith("max_length 20")]
    assert "0 of 12 responses" not in line or "0 of 6 prompts" not in line


class Pooled:
    """Strict wins, by subset and over all; how many prompts are published is not known."""

    def tables(self, items: Any, margins: Any) -> Any:
        return stacked(items, margins, lambda item, m: [strict(item, m)])

    def numbers(self, sums: Any) -> Any:
        subsets = each_subset(sums)
        return {"overall": {"all": Made(pooled(sums, list(sums)), tuple(sums))}, "sections": {}, "subsets": subsets}


def test_a_number_over_cut_responses_is_not_comparable(folders: dict[str, str], tmp_path: Path) -> None:
    """One response of hep-go, of which nothing is missing as far as is known, runs beyond the limit; nothing else."""
    long = [dict(row) for row in PAIRS]
    long[1]["chosen"] += " and so on" * 60
    (tmp_path / "pairs.json").write_text(json.dumps(long))
    scorer = Scorer.load(folders["reward"], max_length=200)
    scored = scorer([Datum("a", "?", ("short", "long " * 300)), Datum("b", "?", ("short", "shorter"))])
    assert scored.shortened == [True, False]
    known = replace(SUITES["rewardbench"], rule=Pooled())
    outcome = evaluate_suite(known, scorer, str(tmp_path / "pairs.json"), bootstrap=2)
    cut = {name: (value.cut, value.comparable) for name, value in outcome.subsets.items()}
    assert cut == {name: (name == "hep-go", name != "hep-go") for name in cut} and len(cut) > 2
    assert outcome.overall["all"].cut == 1 and not outcome.overall["all"].comparable
    assert any("all: not comparable" in note and "1 prompt cut at the longest length" in note for note in outcome.notes)


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "pairs.json").write_text(json.dumps(PAIRS))
    (tmp_path / "styles.json").write_text(json.dumps(STYLES))
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return {name: str(tmp_path / name) for name in ("pairs.json", "styles.json", "own.jsonl")}


def evaluate(*words: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *words])
    assert not stop.value.code


def test_suites_on_the_command_line(
    folders: dict[str, str], files: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    given = [f"rewardbench={files['pairs.json']}", f"rm-bench={files['styles.json']}"]
    evaluate(folders["reward"], *given, "--out", str(out))
    printed = capsys.readouterr().out
    assert "RewardBench: 6 prompts" in printed and "RM-Bench: 6 prompts" in printed
    assert "not comparable" in printed and "2 suites; report:" in printed
    record = json.loads((out / "report.json").read_text())
    assert list(record["suites"]) == ["rewardbench", "rm-bench"] and record["model"] == folders["reward"]
    found = record["suites"]["rewardbench"]["subsets"]["hep-go"]
    assert found.keys() == {"value", "low", "high", "n", "whole", "missing", "cut", "comparable"}
    assert (found["n"], found["whole"], found["comparable"]) == (2, 164, False)
    page = (out / "report.html").read_text()
    assert "Chat Hard" not in page and "hep-go (not comparable)" in page and "markdown over concise" in page


def test_what_was_measured_stays_where_a_later_suite_fails(
    folders: dict[str, str], files: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        given = [f"rewardbench={files['pairs.json']}", f"rm-bench={files['pairs.json']}"]
        main(["evaluate", folders["reward"], *given, "--out", str(out)])
    assert stop.value.code == 2 and "pairs.json:1" in capsys.readouterr().err
    assert list(json.loads((out / "report.json").read_text())["suites"]) == ["rewardbench"]


def test_suites_beside_data_files(folders: dict[str, str], files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    given = [files["own.jsonl"], f"rewardbench={files['pairs.json']}"]
    evaluate(folders["embedding"], *given, "--out", str(out), "--read-as", "preference")
    assert "overall" in json.loads((out / "report.json").read_text())
    assert list(json.loads((out / "suites" / "report.json").read_text())["suites"]) == ["rewardbench"]
    printed = capsys.readouterr().out
    assert "accuracy" in printed and f"report: {out / 'suites' / 'report.html'}" in printed


def test_the_command_refuses_what_it_cannot_mean(
    folders: dict[str, str], files: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    pairs = files["pairs.json"]
    for words, message in (
        ([f"rewardbnch={pairs}"], "unknown suite 'rewardbnch'. Did you mean 'rewardbench'?"),
        (["rewardbench=absent.json"], "there is no file or folder absent.json"),
        (["rewardbench="], "rewardbench=: no path follows the ="),
        ([f"rewardbench={pairs}", f"rewardbench={pairs}"], "rewardbench is given twice"),
        ([f"rewardbench={pairs}", "--split", "test"], "are for data files, and here are suites only"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", folders["reward"], *words, "--out", str(tmp_path / "out")])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_the_help_names_every_suite(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(name in shown for name in SUITES)
