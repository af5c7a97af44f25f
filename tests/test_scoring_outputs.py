"""Reward models of several outputs: saved, found again by plain transformers and by ours, and seen by each voice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForSequenceClassification,
    TrainingArguments,
)

from conftest import tiny_config
from mmpo import methods, scores
from mmpo.batch import Limits, Vocabulary
from mmpo.cli import main
from mmpo.data import to_row
from mmpo.errors import UserError
from mmpo.evaluate.model import evaluate_model
from mmpo.evaluate.recorded import part_record, recorded_part
from mmpo.evaluate.scoring import Scorer
from mmpo.models.outputs import check_prompts
from mmpo.train import train
from mmpo.types import Datum, Judgement
from tiny import ROWS, batch_of, plain, saved


def graded(n: int, row: dict[str, Any]) -> Datum:
    """Graded on two attributes that disagree, and by two people that do."""
    grades = tuple(map(float, row["scores"]))
    turned = tuple(10 - grade for grade in grades)
    people = {"ann": grades, "bob": turned}
    both = {"depth": grades, "brevity": turned}
    return Datum(str(n), row["prompt"], tuple(row["responses"]), grades, annotator_grades=people, attributes=both)


DATA = [graded(n, row) for n, row in enumerate(ROWS)]


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    told: dict[str, Any] = {"max_steps": 2, "save_strategy": "no", "learning_rate": 1e-2, "report_to": "none"}
    told |= {"per_device_train_batch_size": 3, "use_cpu": True, "disable_tqdm": True}
    return TrainingArguments(output_dir=str(folder), **told | more)


@pytest.fixture(scope="module")
def base(tiny_reward: Any, tiny_tokenizer: Any, tmp_path_factory: Any) -> str:
    return saved(tiny_reward(0).base_model, plain(tiny_tokenizer), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def run(base: str, tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("voices") / "run"
    how = arguments(folder, save_strategy="steps", save_steps=1)
    train(base, "mmpo_voices", DATA, how, limits=Limits(100))
    return folder


def test_every_score_of_several_outputs_is_found_again_from_its_record() -> None:
    own = [entry.build() for entry in methods.CATALOGUE.values() if "outputs" in entry.build().needs]
    assert own
    for method in own:
        record = json.loads(json.dumps(part_record(method.score.plain)))
        assert recorded_part(record) == method.score.plain


def test_a_saved_model_is_read_by_its_own_score_and_by_plain_transformers(run: Path) -> None:
    scorer = Scorer.load(str(run))
    assert isinstance(scorer.score, scores.PerVoice)
    assert scorer.vocabulary == Vocabulary("attributes", {"brevity": 1, "depth": 2})
    found = scorer(DATA)
    assert found.facet_names == ["brevity", "depth"]
    model = AutoModelForSequenceClassification.from_pretrained(run)
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert model.config.id2label == {0: "brevity", 1: "depth"} and model.config.label2id["depth"] == 1
    text = DATA[0].prompt + DATA[0].responses[1] + tokenizer.eos_token
    with torch.no_grad():
        theirs = model(**tokenizer(text, return_tensors="pt")).logits[0]
    assert found.facets is not None
    np.testing.assert_allclose(found.facets[0][1], theirs.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.rewards[0][1], theirs.mean().item(), atol=1e-5)


def test_each_voice_has_its_own_view(run: Path) -> None:
    found = Scorer.load(str(run))(DATA)
    assert found.facets is not None
    for place, name in enumerate(found.facet_names):
        own = found.view(name)
        for mine, all_of_them in zip(own.rewards, found.facets, strict=True):
            np.testing.assert_allclose(mine, all_of_them[:, place], atol=1e-12)
        assert own.data == found.data and own.margins is None
    with pytest.raises(UserError, match=r"knows no attribute 'deph'. Did you mean 'depth'\?$"):
        found.view("deph")


def test_a_checkpoint_of_the_run_is_read_alike(run: Path) -> None:
    whole, last = (Scorer.load(str(folder))(DATA) for folder in (run, run / "checkpoint-2"))
    assert last.facet_names == ["brevity", "depth"]
    np.testing.assert_allclose(np.concatenate(whole.rewards), np.concatenate(last.rewards), atol=1e-6)


def test_several_labels_without_a_record_stay_an_error(tiny_tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(tiny_config(tiny_tokenizer, num_labels=3))
    folder = saved(model, plain(tiny_tokenizer), tmp_path)
    with pytest.raises(UserError, match="has 3 labels, and a reward model needs one label"):
        Scorer.load(folder)


def test_a_model_of_one_reward_has_one_view(base: str, tmp_path: Path) -> None:
    train(base, "mmpo_reward", DATA, arguments(tmp_path / "run"), limits=Limits(100))
    found = Scorer.load(str(tmp_path / "run"))(DATA)
    assert found.facets is None and found.facet_names == []
    with pytest.raises(UserError, match="one view for all"):
        found.view("ann")


def test_heads_on_the_prompt_are_not_read_where_the_prompt_is_not(tiny_reward: Any) -> None:
    check_prompts(tiny_reward(0), [])
    with pytest.raises(UserError, match=r"end of the prompt \(router\)"):
        check_prompts(tiny_reward(0), ["router"])


# ---------------------------------------------------------------------------------------------- people, from the CLI


def code(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def people(base: str, tmp_path_factory: Any) -> Path:
    """A reward for each person, and the rows that they graded."""
    folder: Path = tmp_path_factory.mktemp("people")
    with_names = [replace(datum, attributes={}) for datum in DATA]
    train(base, "mmpo_voices", with_names, arguments(folder / "run"), limits=Limits(100), voices="annotators")
    rows = "".join(json.dumps(to_row(datum)) + "\n" for datum in with_names)
    (folder / "rows.jsonl").write_text(rows)
    return folder


def test_score_writes_what_each_person_sees(people: Path, capsys: Any) -> None:
    words = ["score", str(people / "run"), str(people / "rows.jsonl"), "--out", str(people / "out.jsonl")]
    assert code([*words, "--person", "all"]) == 0
    rows = [json.loads(line) for line in (people / "out.jsonl").read_text().splitlines()]
    assert len(rows) == len(DATA)
    for row in rows:
        assert row["model_scores_by"] == row["model_scores_of"] and set(row["model_scores_of"]) == {"ann", "bob"}
        mean = np.mean([row["model_scores_of"]["ann"], row["model_scores_of"]["bob"]], axis=0)
        np.testing.assert_allclose(row["model_scores"], mean, atol=1e-6)
    assert code([*words, "--person", "bob"]) == 0
    alone = [json.loads(line) for line in (people / "out.jsonl").read_text().splitlines()]
    assert [row["model_scores_of"] for row in alone] == [{"bob": row["model_scores_of"]["bob"]} for row in rows]
    assert code([*words, "--person", "bbo"]) == 2
    told = capsys.readouterr().err
    # Nobody can be placed beside outputs of which each is a person's.
    assert "knows no annotator 'bbo'. Did you mean 'bob'?" in told and "mmpo adapt" not in told


def test_score_of_a_person_needs_a_model_that_knows_people(run: Path, base: str, tmp_path: Path, capsys: Any) -> None:
    train(base, "mmpo_reward", DATA, arguments(tmp_path / "run"), limits=Limits(100))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "p", "responses": ["a", "b"]}) + "\n")
    words = ["score", str(tmp_path / "run"), str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    assert code([*words, "--person", "all"]) == 2
    assert "one view for all" in capsys.readouterr().err


def test_evaluate_tells_of_each_person_the_worst_and_cycles(people: Path, tmp_path: Path, capsys: Any) -> None:
    rows = [to_row(replace(datum, prompt=f"{n} {datum.prompt}", id="")) for n in range(3) for datum in DATA]
    around = Datum("c", "Which?", ("a", "b", "c"), judgements=tuple(Judgement(i, (i + 1) % 3, p=1.0) for i in range(3)))
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, to_row(around)]))
    assert code(["evaluate", str(people / "run"), str(path), "--out", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    found = report["by_annotator"]
    assert {one["name"]: one["own"] for one in found["voices"]} == {"ann": True, "bob": True}
    assert found["nameless"]["n_comparisons"] == 3 and found["n_own"] == 2
    assert found["worst"]["accuracy"]["voice"] == found["voices"][0]["name"]
    assert report["cycles"]["n_cyclic"] == report["cycles"]["n_triples"] == 1
    assert "2 annotators with 20 comparisons or more: accuracy mean" in said and "cycles: 100.0% of 1 triples" in said
    page = (tmp_path / "report" / "report.html").read_text()
    assert "How well it serves each of 2 annotators" in page and "How far people are from a line" in page
    assert "by its own view of 2 of them" in page


# ---------------------------------------------------------------------------------------------- every such method

SEVERAL = [name for name, entry in methods.CATALOGUE.items() if "outputs" in entry.build().needs]


VOTED = [
    replace(datum, judgements=tuple(Judgement(0, 1, p=p, annotator=who) for who, p in (("ann", 1.0), ("bob", 0.2))))
    for datum in DATA
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL)
def test_a_saved_run_says_what_it_said_when_it_ended(name: str, decoder: str, tmp_path: Path) -> None:
    """Scored again, from anybody's view and from each voice's, by what lies in its folder."""
    trainer = train(decoder, name, VOTED, arguments(tmp_path / "run"), limits=Limits(100))
    scorer = Scorer.load(str(tmp_path / "run"))
    found = scorer(VOTED)
    batch = batch_of(VOTED, scorer.tokenizer, Limits(100))
    trainer.model.eval()
    with torch.no_grad():
        reading = trainer.reader(trainer.model, batch)
        reading = replace(reading, tables={**reading.tables, **trainer.method_state.memory})
        for voice, number in [(None, None), *(scorer.vocabulary.numbers.items() if scorer.vocabulary else ())]:
            if voice is not None and voice not in found.voices:
                continue
            who = None if number is None else torch.full((len(batch),), number)
            said = scorer.score(replace(reading, who=who)).double().numpy()
            seen = found if voice is None else found.view(voice)
            for m, rewards, margins in zip(said, seen.rewards, seen.margins or [None] * len(VOTED), strict=True):
                k = len(rewards)
                mine = np.subtract.outer(rewards, rewards) if margins is None else margins
                np.testing.assert_allclose(mine, m[:k, :k], atol=2e-4, rtol=1e-4)
    result = evaluate_model(scorer, str(rows_of(VOTED, tmp_path)), tmp_path / "report", name=str(tmp_path / "run"))
    assert result["by_annotator"]["n_voices"] == 2
    assert ("groups" in result) == (scorer.score.apart and isinstance(scorer.score, MIXTURES))


MIXTURES = (scores.IdealPoint, scores.IdealDirection, scores.OfGroup, scores.Hedged)


def rows_of(data: list[Datum], folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(to_row(datum)) + "\n" for datum in data))
    return path


@pytest.fixture(scope="module")
def decoder(tiny_policy: Any, tiny_tokenizer: Any, tmp_path_factory: Any) -> str:
    return saved(tiny_policy(0), plain(tiny_tokenizer), tmp_path_factory.mktemp("decoder"))
