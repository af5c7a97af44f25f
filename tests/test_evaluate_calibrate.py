"""A calibration from fit to use: held out by prompt, beside the model, applied where the model is read alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification

from mmpo.cli.calibrate import _verdict
from mmpo.data import Source
from mmpo.errors import UserError
from mmpo.evaluate.calibrate import FILE, Calibration, calibrate, cross_fitted, reading_of, trained_on
from mmpo.evaluate.columns import columns
from mmpo.evaluate.fit import Temperature, named
from mmpo.evaluate.scored import Scored
from mmpo.evaluate.scoring import Scorer
from mmpo.models.outputs import OutputsReader, fresh_heads
from test_cli import run
from test_evaluate_metrics import comparisons, drawn
from test_evaluate_report import graded
from tiny import plain, rows_file, saved

# ---------------------------------------------------------------------------------------------- on numbers


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_no_comparison_is_measured_by_a_fit_that_has_seen_its_prompt(method: str) -> None:
    c = drawn(300, 1, per_prompt=3)
    mine = c.group == 17
    other = replace(c, p=np.where(mine, 1 - c.p, c.p))
    before, after = (cross_fitted(one, method).m for one in (c, other))
    assert (before[mine] == after[mine]).all() and (before != after)[~mine].any()
    # With as many parts as prompts each is held out alone.
    alone = cross_fitted(c, method, folds=1000).m[mine]
    assert alone.tolist() == named(method).fit(c.where(~mine)).margins(c.m[mine]).tolist()


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_bold_model_is_calibrated_on_prompts_held_out_and_a_calibrated_one_gains_nothing(method: str) -> None:
    bold, good = (calibrate(drawn(3000, 2, stretch=s, per_prompt=3), method, bootstrap=200)[1] for s in (3.0, 1.0))
    assert bold["before"]["ece"]["value"] > bold["before"]["ece_at_most_by_chance"]
    assert bold["after"]["ece"]["value"] <= bold["after"]["ece_at_most_by_chance"]
    assert bold["change"]["nll"]["high"] < 0 and bold["change"]["brier"]["high"] < 0
    assert good["change"]["nll"]["high"] > 0
    before, after = bold["before"]["nll"]["value"], bold["after"]["nll"]["value"]
    assert bold["change"]["nll"]["value"] == pytest.approx(after - before)


def test_too_few_prompts_or_folds_are_user_errors() -> None:
    with pytest.raises(UserError, match="one prompt"):
        cross_fitted(comparisons([1.0, 2.0], [1, 0], group=[3, 3]), "temperature")
    with pytest.raises(UserError, match="folds is 1"):
        cross_fitted(drawn(10, 0), "temperature", folds=1)


def test_columns_hold_the_pairs_that_were_compared_or_else_all_of_them() -> None:
    data = [graded(pairs=((0, 2),)), graded(id="free", grades=None)]
    scored = Scored(data, [[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]], [[1.0] * 3] * 2, {})
    fit = Temperature(0.5)
    first, free = columns(scored, fit)
    sigmoid = {m: 1 / (1 + np.exp(-m / 2)) for m in (2.0, -1.0, -3.0, -2.0)}
    assert first == {"model_scores": [2, 1, 0], "model_p": [[0, 2, pytest.approx(sigmoid[2.0])]]}
    wanted = [(0, 1, sigmoid[-1.0]), (0, 2, sigmoid[-3.0]), (1, 2, sigmoid[-2.0])]
    assert [tuple(row) for row in free["model_p"]] == [(i, j, pytest.approx(p)) for i, j, p in wanted]
    assert [list(row) for row in columns(scored)] == [["model_scores"]] * 2
    turns = np.array([[0, 1, -2], [-1, 0, 4], [2, -4, 0.0]])
    around = next(columns(replace(scored, data=data[:1], margins=[turns], rewards=scored.rewards[:1]), fit))
    assert around["model_margins"] == turns.tolist() and around["model_p"] == [[0, 2, pytest.approx(sigmoid[-2.0])]]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_told_and_never_written_as_one_that_was_not_asked_for(broken: float) -> None:
    scored = Scored([graded()], [[2.0, broken, 0.0]], [[1.0] * 3], {})
    with pytest.raises(UserError, match=r"response 1: the model's score is (nan|inf)"):
        list(columns(scored))


# ---------------------------------------------------------------------------------------------- on models

PROMPTS = [f"Name {n} fruits, please.\n" for n in range(24)]
ANSWERS = ["an apple", "a pear, a plum", "no", "I am not sure that this is better.", "Thank you!"]


def rows(votes: dict[str, float] | None = None, prompts: list[str] = PROMPTS) -> list[dict[str, Any]]:
    made = [
        {"prompt": prompt, "responses": [ANSWERS[n % 5], ANSWERS[(n + 1 + n // 5) % 5]]}
        for n, prompt in enumerate(prompts)
        if n % 5 != (n + 1 + n // 5) % 5
    ]
    return made if votes is None else [{**row, "p_first": votes[row["prompt"]]} for row in made]


def voted(model: str, folder: Path, slope: float, *further: str) -> tuple[str, dict[str, float]]:
    """Votes that are sigmoid(slope m) of the model's own margins, as a file; and the margins."""
    out = folder / "raw.jsonl"
    assert run("score", model, rows_file(folder, rows(), "plain.jsonl"), "--out", str(out), *further) == 0
    said = [json.loads(line) for line in out.read_text().splitlines()]
    assert all("model_p" not in row for row in said)
    m = {row["prompt"]: row["model_scores"][0] - row["model_scores"][1] for row in said}
    votes = {prompt: 1 / (1 + np.exp(-slope * margin)) for prompt, margin in m.items()}
    return rows_file(folder, rows(votes), "votes.jsonl"), m


def test_a_reward_model_from_calibrate_to_score_and_evaluate(
    tiny_reward: Any, tiny_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(tiny_reward(3), plain(tiny_tokenizer), tmp_path / "model")
    data, margins = voted(model, tmp_path, 5.0)
    assert run("calibrate", model, data, "--folds", "4") == 0
    said = capsys.readouterr().out
    assert "after, on prompts held out (4 parts)" in said and "]: better\n" in said
    assert f"temperature 0.2, fitted to all {len(margins)}" in said
    made = Calibration.read(model)
    assert made is not None and made.fit == Temperature(pytest.approx(5.0, rel=1e-5))
    assert made.data["n_prompts"] == len(margins) == len(made.data["prompts"])
    # The votes are soft and the fit is exact: held out, too, the Brier score is nothing.
    assert made.after["brier"]["value"] < 1e-9 < made.before["brier"]["value"]

    out = tmp_path / "scored.jsonl"
    assert run("score", model, data, "--out", str(out)) == 0
    assert "calibrated with the temperature 0.2 of" in capsys.readouterr().out
    for row in map(json.loads, out.read_text().splitlines()):
        assert row["model_p"] == [[0, 1, pytest.approx(row["judgements"][0]["p"], abs=1e-5)]]
        assert row["model_scores"][0] - row["model_scores"][1] == pytest.approx(margins[row["prompt"]], abs=1e-6)

    assert run("evaluate", model, data, "--out", str(tmp_path / "report")) == 0
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["calibrated"]["brier"]["value"] < 1e-9 < report["overall"]["brier"]["value"]
    assert (
        f"fitted to {len(margins)} of these {len(margins)} prompts" in said and "with calibrated probabilities" in said
    )
    assert "calibrated: temperature 0.2" in (tmp_path / "report" / "report.html").read_text()

    # Other prompts are not warned of; another precision is another reading.
    fresh = rows_file(tmp_path, rows(dict.fromkeys(["A", "B"], 0.7), ["A", "B"]), "fresh.jsonl")
    assert run("evaluate", model, fresh, "--out", str(tmp_path / "fresh")) == 0
    assert "of these" not in capsys.readouterr().out
    assert run("score", model, data, "--out", str(out), "--dtype", "bfloat16") == 0
    assert "is not applied: it was fitted to the model read with another precision (then float32)" in (
        capsys.readouterr().out
    )
    assert "model_p" not in out.read_text()
    (Path(model) / FILE).write_text("{}")
    assert run("score", model, data, "--out", str(out)) == 2
    assert "not a calibration" in capsys.readouterr().err


def test_a_policy_is_calibrated_for_one_reading_and_one_reference(
    tiny_policy: Any, tiny_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, first, second = (
        saved(tiny_policy(seed), plain(tiny_tokenizer), tmp_path / name) for seed, name in enumerate(("m", "a", "b"))
    )
    data, _ = voted(model, tmp_path, 1.5, "--reference", first)
    assert run("calibrate", model, data, "--reference", first) == 0
    made = Calibration.read(model)
    assert made is not None and made.fit == Temperature(pytest.approx(1.5, rel=1e-4))
    capsys.readouterr()
    out = str(tmp_path / "s.jsonl")
    for further, words in (
        (["--reference", first], "calibrated with the temperature 0.667"),
        (["--reference", second], "read with another reference"),
        (["--reference", first, "--beta", "0.3"], "another score (then LogRatio with beta 0.1)"),
    ):
        assert run("score", model, data, "--out", out, *further) == 0
        assert words in capsys.readouterr().out


def test_another_adapter_is_another_model(tiny_reward: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    base = saved(tiny_reward(3), plain(tiny_tokenizer), tmp_path / "base")
    readings = []
    for name, alpha in (("one", 8), ("two", 8), ("three", 16)):
        torch.manual_seed(len(readings) % 2)
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        lora = LoraConfig(target_modules="all-linear", task_type="SEQ_CLS", lora_alpha=alpha, init_lora_weights=False)
        get_peft_model(model, lora).save_pretrained(tmp_path / name)
        plain(tiny_tokenizer).save_pretrained(tmp_path / name)
        (tmp_path / name / "run.json").write_text('{"task": "reward"}')
        readings.append(reading_of(Scorer.load(str(tmp_path / name))))
    kept = Calibration(Temperature(1.0), readings[0], {}, {}, {}, {}, 5)
    assert kept.differs(reading_of(Scorer.load(str(tmp_path / "one")))) is None
    # Other weights under the same settings, and the same weights under other settings.
    assert [kept.differs(reading) for reading in readings[1:]] == ["other weights"] * 2


def test_people_learned_otherwise_beside_the_same_weights_are_another_model(
    tiny_reward: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """A table or a memory moves margins as weights do."""
    scorer = Scorer.load(saved(tiny_reward(3), plain(tiny_tokenizer), tmp_path))

    def read_with(table: float, memory: float) -> dict[str, Any]:
        heads = fresh_heads({"people": (2, 2)}, {}, 0)
        nn.init.constant_(next(heads.parameters()), table)
        return reading_of(replace(scorer, reader=OutputsReader(heads, {"losses": torch.full((2, 2), memory)})))

    kept = Calibration(Temperature(1.0), read_with(1.0, 2.0), {}, {}, {}, {}, 5)
    assert kept.differs(read_with(1.0, 2.0)) is None
    for other in (read_with(1.5, 2.0), read_with(1.0, 2.5), reading_of(scorer)):
        assert kept.differs(other) == "other people or heads beside it"


def test_other_limits_are_told_and_another_template_is_another_reading(
    tiny_reward: Any, tiny_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(tiny_reward(3), plain(tiny_tokenizer), tmp_path / "model")
    data, _ = voted(model, tmp_path, 5.0)
    assert run("calibrate", model, data) == 0
    out = str(tmp_path / "s.jsonl")
    assert run("score", model, data, "--out", out, "--max-length", "30") == 0
    assert "fitted under other limits (max_length 1024" in capsys.readouterr().out
    assert run("score", model, data, "--out", out) == 0
    assert "under other limits" not in capsys.readouterr().out
    tiny_tokenizer.save_pretrained(model)
    assert run("score", model, data, "--out", out) == 0
    assert "is not applied: it was fitted to the model read with another chat template" in capsys.readouterr().out


def test_a_calibration_that_does_harm_is_called_so() -> None:
    for ends, words in (((-0.2, -0.1), "better"), ((-0.2, 0.1), "no measurable gain"), ((0.1, 0.2), "remove c.json")):
        assert words in _verdict({"low": ends[0], "high": ends[1]}, Path("c.json"))


def test_data_that_the_model_was_trained_on_are_known_by_path_and_split(tmp_path: Path, monkeypatch: Any) -> None:
    data = rows_file(tmp_path, rows(dict.fromkeys(PROMPTS, 0.6)), "votes.jsonl")
    told = {"identity": {"data": [{"path": "votes.jsonl", "split": None}, {"path": "some/data", "split": "train"}]}}
    (tmp_path / "run.json").write_text(json.dumps(told))
    monkeypatch.chdir(tmp_path)
    asked = [Source(data), Source(data, split="test"), Source("some/data", split="train"), Source("some/data")]
    assert trained_on(tmp_path, asked) == [data, "some/data"]
    assert trained_on(tmp_path / "none", asked) == []


def test_what_cannot_be_calibrated_is_said(
    tiny_reward: Any, tiny_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(tiny_reward(3), plain(tiny_tokenizer), tmp_path / "model")
    data = rows_file(tmp_path, rows(dict.fromkeys(PROMPTS, 0.6)), "votes.jsonl")
    for words, said in (
        (["some/model", data], "written beside the model"),
        ([model, data, "--method", "temprature"], "Did you mean 'temperature'"),
        ([model, str(tmp_path / "absent.jsonl"), "--folds", "1"], "folds is 1"),
        ([model, rows_file(tmp_path, rows(dict.fromkeys(PROMPTS, 0.6))[:1], "one.jsonl")], "one prompt"),
    ):
        assert run("calibrate", *words) == 2
        assert said in capsys.readouterr().err
    assert not (Path(model) / FILE).exists()
