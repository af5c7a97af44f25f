"""mmpo adapt: new people are placed in a trained model from a few labels, and nothing else of it moves."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn.functional import softplus

from mmpo.adapt import target_of
from mmpo.batch import Vocabulary
from mmpo.cli import main
from mmpo.data.write import to_row
from mmpo.errors import UserError
from mmpo.evaluate.recorded import part_record
from mmpo.evaluate.scoring import Scorer
from mmpo.models.outputs import STATE
from mmpo.placing import Labels, fitted, grown, remembered, spoken_by
from mmpo.recipe import read_recipe
from mmpo.run.provenance import saved_weights
from mmpo.scores import IdealPoint, OfGroup
from mmpo.targets import BradleyTerry, Hard, Posterior
from mmpo.train import train_recipe
from mmpo.types import Datum, Judgement, Reading
from test_people import said_by
from tiny import plain, rows_file, saved

THINGS = ("apple", "pear", "plum", "fox", "river", "story", "number", "prime", "short", "longer", "kinder", "Paris")


def said(person: str | None, likes: str, things: Any) -> list[Datum]:
    """A red and a blue thing each, and which this person likes."""
    return [
        Datum(
            f"{person}{n}",
            f"Which {thing}?",
            (f"The red {thing}.", f"The blue {thing}."),
            judgements=(Judgement(0, 1, p=float(likes == "red"), annotator=person),),
        )
        for n, thing in enumerate(things)
    ]


def file_of(folder: Path, name: str, data: list[Datum]) -> str:
    return rows_file(folder, [to_row(datum) for datum in data], name)


KNOWN = {"ada": "red", "bob": "blue", "cy": "red", "dee": "blue"}


def train(folder: Path, base: str, rows: str, method: dict[str, Any], steps: int = 40, **more: Any) -> Path:
    recipe = {
        "model": base,
        "data": rows,
        "method": method,
        "output_dir": str(folder),
        "max_length": 64,
        "max_steps": steps,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        **more,
    }
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe))
    train_recipe(read_recipe(path))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any, tiny_policy: Any, tiny_tokenizer: Any) -> tuple[str, str]:
    """A decoder, and what four people of two tastes said."""
    folder = tmp_path_factory.mktemp("base")
    data = [d for person, likes in KNOWN.items() for d in said(person, likes, THINGS[:8])]
    return saved(tiny_policy(0), plain(tiny_tokenizer), folder / "base"), file_of(folder, "rows.jsonl", data)


@pytest.fixture(scope="module")
def pal(base: tuple[str, str], tmp_path_factory: Any) -> Path:
    """pal_a, trained on them."""
    method = {"name": "pal_a", "dim": 4}
    return train(tmp_path_factory.mktemp("pal") / "run", *base, method, head_learning_rate=0.1)


def run(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def is_the_same_but_for(more: int, before: Path, after: Path, names: set[str]) -> None:
    """Every tensor beside the model is what it was; these have so many rows more."""
    old, new = load_file(before / STATE), load_file(after / STATE)
    assert old.keys() == new.keys() >= names
    for name, value in old.items():
        grown = more if name in names else 0
        assert new[name].shape == (value.shape if not grown else (len(value) + grown, *value.shape[1:]))
        assert torch.equal(new[name][: len(value)] if grown else new[name], value)
    assert (before / "model.safetensors").read_bytes() == (after / "model.safetensors").read_bytes()


# ---------------------------------------------------------------------------------------------- the whole road


def test_new_people_are_placed_and_scored(pal, tmp_path, capsys):
    new = [*said("eve", "red", THINGS[:4]), *said("flo", "blue", THINGS[:4])]
    others = [*said("ada", "red", THINGS[:2]), *said(None, "red", THINGS[:1])]
    rows = file_of(tmp_path, "new.jsonl", new + others)
    held_out = file_of(tmp_path, "more.jsonl", said("eve", "red", THINGS[8:]) + said("flo", "blue", THINGS[8:]))
    out = tmp_path / "out"
    assert run("adapt", pal, rows, "--out", out, "--held-out", held_out) == 0
    told = capsys.readouterr().out
    assert "eve: 4 labels, 100.0% agree" in told and "flo: 4 labels, 100.0% agree" in told
    assert "held out, the mean of 2 people: 100.0%, anybody's view 50.0%; gain 0.5000" in told
    assert "comparisons of people whom the model knows, who stay as they are, left out: 2" in told
    assert "comparisons of people without a name, or not placed, left out: 1" in told
    assert "placed 2 people beside 4" in told
    is_the_same_but_for(2, pal, out, {"heads.tables.people.weight"})
    assert json.loads((out / "voices.json").read_text())["names"] == [*sorted(KNOWN), "eve", "flo"]
    record = json.loads((out / "run.json").read_text())
    assert [person["name"] for person in record["adapted"]] == ["eve", "flo"]
    assert record["adapted"][0]["held_out"] == {"labels": 4, "own": 1.0, "anybody": 0.5}
    assert record["weights"]["result"] == saved_weights(out)
    before = json.loads((pal / "run.json").read_text())
    assert (out / record["base_folder"]).resolve() == (pal / before["base_folder"]).resolve()
    probe = said("eve", "red", THINGS[8:10])
    scored, before = Scorer.load(str(out))(probe), Scorer.load(str(pal))(probe)
    for person in KNOWN:
        assert scored.view(person).rewards == before.view(person).rewards
    for person, first in (("eve", True), ("flo", False)):
        assert all((red > blue) == first for red, blue in scored.view(person).rewards)
    assert run("score", out, held_out, "--person", "eve", "--out", tmp_path / "scored.jsonl") == 0
    lines = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert all(line["model_scores_of"]["eve"][0] > line["model_scores_of"]["eve"][1] for line in lines)
    capsys.readouterr()
    assert run("evaluate", out, held_out, "--out", tmp_path / "report") == 0
    assert "change accuracy by +0.5000" in capsys.readouterr().out


def test_labels_without_a_name_are_those_of_the_person(pal, tmp_path, capsys):
    rows = file_of(tmp_path, "new.jsonl", said(None, "blue", THINGS[:4]))
    assert run("adapt", pal, rows, "--out", tmp_path / "out", "--person", "gus") == 0
    told = capsys.readouterr().out
    assert "gus: 4 labels, 100.0% agree" in told and "--held-out" in told
    assert json.loads((tmp_path / "out" / "voices.json").read_text())["names"][-1] == "gus"
    # What is held out may name the same person.
    more = file_of(tmp_path, "more.jsonl", said("gus", "blue", THINGS[4:6]))
    assert run("adapt", pal, rows, "--out", tmp_path / "again", "--person", "gus", "--held-out", more) == 0
    assert "held out: 2 labels, 100.0% agree" in capsys.readouterr().out


def test_many_people_are_told_in_short_and_more_may_follow(pal, tmp_path, capsys):
    many = [f"person {n}" for n in range(21)]
    rows = file_of(tmp_path, "many.jsonl", [d for name in many for d in said(name, "red", THINGS[:1])])
    assert run("adapt", pal, rows, "--out", tmp_path / "first") == 0
    told = capsys.readouterr().out
    assert told.count("1 label, 100.0% agree") == 20 and "and 1 more people" in told
    rows = file_of(tmp_path, "new.jsonl", said("eve", "blue", THINGS[:4]))
    assert run("adapt", tmp_path / "first", rows, "--out", tmp_path / "second") == 0
    assert "placed 1 people beside 25" in capsys.readouterr().out
    is_the_same_but_for(22, pal, tmp_path / "second", {"heads.tables.people.weight"})
    told = json.loads((tmp_path / "second" / "run.json").read_text())["adapted"]
    assert [person["name"] for person in told] == [*sorted(many), "eve"]
    scored = Scorer.load(str(tmp_path / "second"))(said("eve", "red", THINGS[8:9]))
    (red, blue), (hers, other) = scored.view("person 20").rewards[0], scored.view("eve").rewards[0]
    assert red > blue and hers < other


def test_parts_of_the_data_are_placed_like_people(base, tmp_path, capsys):
    """With ``voices: subsets`` each data set has a taste."""

    def part(name, likes, things):
        return [replace(d, subset=name) for d in said(None, likes, things)]

    rows = file_of(tmp_path, "rows.jsonl", part("chat", "red", THINGS[:4]) + part("facts", "blue", THINGS[4:8]))
    model = train(tmp_path / "run", base[0], rows, {"name": "pal_a"}, steps=2, voices="subsets")
    new = file_of(tmp_path, "new.jsonl", part("code", "red", THINGS[:3]) + part("chat", "red", THINGS[3:4]))
    assert run("adapt", model, new, "--out", tmp_path / "out") == 0
    assert "code: 3 labels" in capsys.readouterr().out
    assert Vocabulary.read(tmp_path / "out") == Vocabulary("subsets", {"chat": 1, "facts": 2, "code": 3})


def test_who_compared_nothing_stands_in_the_middle(pal, tmp_path, capsys):
    half = Datum("a", "What?", ("This.", "That."), (2.0, 1.0), annotator_grades={"eve": (2.0, 1.0), "flo": (2.0, None)})
    assert run("adapt", pal, file_of(tmp_path, "new.jsonl", [half]), "--out", tmp_path / "out") == 0
    assert "flo: compared nothing" in capsys.readouterr().out
    table = load_file(tmp_path / "out" / STATE)["heads.tables.people.weight"]
    torch.testing.assert_close(table[-1], table[1:5].mean(0))
    assert json.loads((tmp_path / "out" / "run.json").read_text())["adapted"][1] == {
        "name": "flo",
        "used": None,
        "held_out": None,
    }


def test_grades_without_a_name_are_those_of_the_person():
    datum = Datum("a", "What?", ("This.", "That."), (2.0, 1.0))
    assert spoken_by([datum], "gus")[0].annotator_grades == {"gus": (2.0, 1.0)}


def test_what_was_fitted_without_them_stays_behind(pal, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(pal, model)
    (model / "calibration.json").write_text("{}")
    (model / "checkpoint-1").mkdir()
    rows = file_of(tmp_path, "new.jsonl", said("eve", "red", THINGS[:2]))
    assert run("adapt", model, rows, "--out", tmp_path / "deep" / "out") == 0
    assert "calibration.json stays behind" in capsys.readouterr().out
    assert not {"calibration.json", "checkpoint-1"} & {path.name for path in (tmp_path / "deep" / "out").iterdir()}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("method", "grown"),
    [
        (
            {"name": "pal_b", "dim": 4, "target": {"Posterior": {"of": "Hard", "price": "Logistic"}}},
            {"heads.tables.people.weight", "memory.reliability"},
        ),
        ({"name": "maxmin_reward"}, {"memory.losses"}),
        ({"name": "micro_people"}, {"memory.losses"}),
    ],
    ids=lambda given: given["name"] if isinstance(given, dict) else None,
)
def test_every_place_for_people_grows(method, grown, base, tmp_path, capsys):
    """A table beside heads on the prompt, the memory of a target, and memories of groups and of heads."""
    model = train(tmp_path / "run", *base, method, steps=2)
    rows = file_of(tmp_path, "new.jsonl", [*said("eve", "red", THINGS[:4]), *said("flo", "blue", THINGS[:3])])
    assert run("adapt", model, rows, "--out", tmp_path / "out") == 0
    is_the_same_but_for(2, model, tmp_path / "out", grown)
    names = json.loads((tmp_path / "out" / "memory.json").read_text())
    assert all("flo" in told for told in names.values() if isinstance(told, dict))
    rewards = Scorer.load(str(tmp_path / "out"))(said("eve", "red", THINGS[:1])).view("flo").rewards[0]
    assert all(math.isfinite(reward) for reward in rewards)


# ---------------------------------------------------------------------------------------------- what cannot be placed


def test_a_wrong_place_or_file_is_named(pal, tmp_path, capsys):
    new = file_of(tmp_path, "new.jsonl", said("eve", "red", THINGS[:2]))
    known = file_of(tmp_path, "known.jsonl", said("ada", "red", THINGS[:2]))
    (tmp_path / "full").mkdir()
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for arguments, message in (
        ((tmp_path / "checkpoint-1", new, "--out", tmp_path / "out"), "is a checkpoint of a run"),
        (("some/hub-id", new, "--out", tmp_path / "out"), "is no folder"),
        ((pal, new, "--out", tmp_path / "full"), "is there already; name a new folder"),
        ((pal, known, "--out", tmp_path / "out"), "the rows name no annotator whom the model does not know"),
        ((pal, new, "--out", tmp_path / "out", "--person", "gus"), "--person gus: all labels in the rows name"),
    ):
        assert run("adapt", *arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "voices", "message"),
    [
        ({"name": "bradley_terry"}, None, "the model has one view for all"),
        ({"name": "mmpo_voices"}, "annotators", "has an output for each of the annotators"),
    ],
    ids=["one view", "an output each"],
)
def test_a_model_without_room_is_named(method, voices, message, base, tmp_path, capsys):
    more = {} if voices is None else {"voices": voices}
    model = train(tmp_path / "run", *base, method, steps=1, **more)
    new = file_of(tmp_path, "new.jsonl", said("eve", "red", THINGS[:2]))
    assert run("adapt", model, new, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_a_model_of_nobody_has_no_places(base, tmp_path, capsys):
    rows = file_of(tmp_path, "rows.jsonl", said(None, "red", THINGS[:8]))
    model = train(tmp_path / "run", base[0], rows, {"name": "pal_a"}, steps=1)
    new = file_of(tmp_path, "new.jsonl", said("eve", "red", THINGS[:2]))
    assert run("adapt", model, new, "--out", tmp_path / "out") == 2
    assert "name none of the annotators" in capsys.readouterr().err


def test_a_model_whose_people_lost_their_names_is_not_read(pal, tmp_path):
    shutil.copytree(pal, tmp_path / "model")
    (tmp_path / "model" / "voices.json").unlink()
    with pytest.raises(UserError, match=r"voices.json with 0 names, and method_state.safetensors \(people\)"):
        Scorer.load(str(tmp_path / "model"))


# ---------------------------------------------------------------------------------------------- how rows are found


def labels(who: list[int], first: list[bool], voices: int = 3, prototypes: int = 2) -> list[Labels]:
    """Pairs at (1, 0) and (0, 1), between prototypes at the same points, which these people compared."""
    n = len(who)
    evidence = said_by(torch.tensor(who), torch.tensor(first))
    reading = Reading(
        torch.ones(n, 2, dtype=torch.bool),
        outputs=torch.eye(2, dtype=torch.float64).expand(n, 2, 2),
        who=torch.tensor(who),
        tables={
            "people": torch.arange(float(voices * prototypes)).view(voices, prototypes).sin().double(),
            "prototypes": torch.eye(2, dtype=torch.float64)[:prototypes],
        },
    )
    return [Labels(evidence, reading, Hard()(evidence, torch.zeros(n, 2, 2)))]


def test_a_row_is_the_likeliest_one_under_the_prior():
    """With squared distances M = 2 (w_1 - w_2) = 2 tanh(d / 2), d the difference of the two logits, whose mean is that
    of the known people; d is found by a scan."""
    said = labels([3] * 5, [True, True, True, True, False])
    row = fitted(IdealPoint(2, 2, power=2.0), said, ["people"], 1)["people"][0]
    known = said[0].reading.tables["people"][1:]
    mean, deviation = known.mean(0), 2 * known.std(0, correction=0).clamp_min(1)
    d = torch.linspace(-6, 6, 120_001, dtype=torch.float64)
    m = 2 * torch.tanh(d / 2)
    # Of two logits with one difference the prior likes best those on either side of its mean, each by half.
    apart = (d - (mean[0] - mean[1])) ** 2 / (2 * (deviation**2).sum())
    price = 4 * softplus(-m) + softplus(m) + apart
    assert float(row[0] - row[1]) == pytest.approx(float(d[price.argmin()]), abs=1e-3)


def test_who_says_nothing_of_use_is_where_people_are_in_the_mean():
    said = labels([3, 3], [True, False], prototypes=1)
    row = fitted(IdealPoint(1, 2), said, ["people"], 1)["people"]
    torch.testing.assert_close(row, said[0].reading.tables["people"][1:].mean(0, keepdim=True))


def test_people_are_placed_alike_together_and_apart():
    score = IdealPoint(2, 2)
    both = fitted(score, labels([3, 3, 4, 4], [True, True, False, True]), ["people"], 2)["people"]
    first = fitted(score, labels([3, 3], [True, True]), ["people"], 1)["people"]
    second = fitted(score, labels([3, 3], [False, True]), ["people"], 1)["people"]
    torch.testing.assert_close(both, torch.cat([first, second]), atol=1e-4, rtol=0)


def test_a_memory_is_that_of_all_labels_once():
    """Under two heads that say (1, 0) and (0, 1) of the two answers the losses of labels are softplus(-1) and
    softplus(1)."""
    score = OfGroup(Hard())
    said = labels([3, 3, 3], [True, True, False])
    said = [said[0]._replace(reading=replace(said[0].reading, tables={"losses": torch.zeros(3, 2).double()}))]
    row = remembered(score, said, ["losses"], 3, 1)["losses"]
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    torch.testing.assert_close(row, torch.tensor([[2 * right + wrong, 2 * wrong + right]]))


def test_what_was_made_of_labels_is_read_from_the_run(pal, tmp_path):
    assert target_of(pal) == Hard() == target_of(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"target": part_record(Posterior(BradleyTerry(0.3)))}))
    assert target_of(tmp_path) == Posterior(BradleyTerry(0.3))
    assert grown(target_of(tmp_path), "memory", 3) == ["reliability"]
