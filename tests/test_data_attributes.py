"""Attributes: read from every shape that has them, weighted to a grade, and written into prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmpo.cli import main
from mmpo.data import Loaded, Source, load, merge, rescale, to_row
from mmpo.data.attributes import weighted_sum
from mmpo.data.weighted import add_weights, weighted_prompt, weightings
from mmpo.errors import UserError
from mmpo.methods import build
from mmpo.needs import without_idle
from mmpo.recipe import Shape
from mmpo.run.gather import gather
from mmpo.types import Datum
from tiny import rows_file

ASKED = {"prompt": "Where is Paris?", "responses": ["In France.", "In Rome."]}
PEOPLE = {
    "annotators": ["ann", "bob"],
    "annotator_attributes": {"truth": [[5, 1], [3, None]], "style": [[1, 2], [3, 4]]},
}
Read = Callable[..., Loaded]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Rows as a file, loaded with the options of Source."""
    return lambda *rows, **options: load(Source(rows_file(tmp_path, rows), **options))


# ---------------------------------------------------------------------------------------------- what a row holds


def test_the_attributes_of_a_row(read: Read) -> None:
    row = {**ASKED, "scores": [2, 1], "attributes": {"truth": [5, 1], "style": [1, None]}}
    loaded = read(row, attributes="all")
    (d,) = loaded.data
    assert d.attributes == {"style": (1, None), "truth": (5, 1)} and d.grades == (2, 1)
    assert loaded.ledger.provides == {"grades": 1, "attributes": 1} and not loaded.ledger.notes
    assert read(row, attributes=["truth"]).data[0].attributes == {"truth": (5, 1)}
    assert load({"path": read(row).ledger.name, "attributes": ["truth", "truth"]}).data[0].attributes == {
        "truth": (5, 1)
    }


def test_what_several_people_gave_is_their_mean(read: Read) -> None:
    (d,) = read({**ASKED, **PEOPLE, "scores": [2, 1]}, attributes="all").data
    assert d.attributes == {"style": (2, 3), "truth": (4, 1)} and not d.annotator_grades
    (d,) = read({**ASKED, **PEOPLE}, attributes=["style"], grade="truth").data
    assert d.attributes == {"style": (2, 3)} and d.grades == (4, 1)
    assert d.annotator_grades == {"ann": (5, 1), "bob": (3, None)}
    # The one number of a response goes before those of each person.
    (d,) = read({**ASKED, **PEOPLE, "scores": [2, 1], "attributes": {"truth": [9, 0]}}, attributes="all").data
    assert d.attributes == {"style": (2, 3), "truth": (9, 0)}


def test_attributes_that_are_not_read_are_told(read: Read) -> None:
    row = {**ASKED, **PEOPLE, "scores": [2, 1], "attributes": {"truth": [9, 0]}}
    (note,) = read(row, row).ledger.notes
    assert note == (
        "graded attributes that are not read: annotator_attributes, attributes; set attributes: all to read them "
        "(rows: 2)"
    )
    assert not read(row, ignore=["attributes", "annotator_attributes"]).ledger.notes
    assert read(row).ledger.columns_left.keys() == {"attributes", "annotator_attributes"}
    # Rows of one response have a column for each.
    one = {"prompt": "Q?", "response": "a", "helpfulness": 4, "coherence": 3, "verbosity": 1}
    (note,) = read(one, {**one, "response": "b"}).ledger.notes
    assert note.startswith("graded attributes that are not read: coherence, verbosity; set attributes: all")
    assert not read(one, {**one, "response": "b"}, attributes=["verbosity"]).ledger.notes


def test_attributes_that_nobody_can_read_look_like_feedback(read: Read) -> None:
    row = {"prompt": "Q?", "chosen": "a", "rejected": "b", "attributes": {"truth": [5, 1]}}
    with pytest.raises(UserError, match=r"not used, though it looks like feedback: attributes; where that is meant"):
        read(row).ledger.check_feedback()
    read(row, ignore=["attributes"]).ledger.check_feedback()


@pytest.mark.parametrize("said", [{"preferred": 1}, {"votes": [0, 1, 1]}, {"pairwise": [[0, 1, 1]]}])
def test_attributes_stand_beside_votes_as_well(read: Read, said: dict[str, Any]) -> None:
    (d,) = read({**ASKED, **said, "attributes": {"truth": [5, 1]}}, attributes="all").data
    assert d.grades is None and d.attributes == {"truth": (5, 1)} and d.judgements
    (again,) = read(to_row(d), attributes="all").data
    assert (again.grades, again.attributes, again.judgements) == (d.grades, d.attributes, d.judgements)


def test_a_row_without_an_attribute_that_is_asked_for_is_a_bad_row(read: Read) -> None:
    rows = [{**ASKED, "scores": [2, 1], "attributes": given} for given in ({"truth": [5, 1]}, None, {"style": [1, 2]})]
    path = read(*rows).ledger.name
    for options in ({"attributes": ["truth"]}, {"grade": "truth"}):
        with pytest.raises(UserError, match=r":2: (attribute|grade) is set to 'truth', but the row has no"):
            load({"path": path, **options})
    found = load({"path": path, "attributes": ["truth"]}, on_bad_row="drop").ledger
    assert (found.rows_used, found.dropped["no attribute 'truth'"].count) == (1, 2)


def test_a_written_datum_is_read_again(read: Read) -> None:
    d = Datum("7", "Q?", ("a", "b"), (1.0, 2.0), attributes={"style": (1.0, None), "truth": (0.5, 2.0)})
    (again,) = read(to_row(d), attributes="all").data
    assert (again.grades, again.attributes) == (d.grades, d.attributes)


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            {"scores": [1, 2], "attributes": {"truth": [1, 2]}},
            {"attributes": ["trut"]},
            "no attribute 'trut'. Did you mean 'truth'",
        ),
        ({"attributes": {"truth": [1, 2]}}, {"grade": {"trut": 1}}, "no grade 'trut'. Did you mean 'truth'"),
        (
            {"scores": [1, 2], "attributes": {"truth": [1]}},
            {"attributes": "all"},
            "attributes.truth has 1 entries for 2 responses",
        ),
        ({"scores": [1, 2]}, {"attributes": "all"}, "attributes is set, but no row has a grade by any"),
        ({"scores": [1, 2]}, {"grade": {"a": 1}}, "grade is set to 'a', but the row has no attributes; leave it out"),
        ({"scores": [1, 2]}, {"attributes": "some"}, "attributes is 'some'; give all, or a list of names"),
        ({"scores": [1, 2]}, {"grade": {}}, "grade names no attribute"),
        ({"scores": [1, 2]}, {"grade": {"a": 0}}, "grade gives all attributes the weight 0"),
        ({"scores": [1, 2]}, {"grade": {"a": "1"}}, "grade gives 'a' the weight '1'; give a finite number"),
        ({"attributes": {"truth": [1, 2]}}, {}, "set grade to one of: truth; or to a weight for each of several"),
    ],
)
def test_wrong_attributes_are_named(read: Read, row: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        read({**ASKED, **row}, **options)
    assert message in str(error.value)


@pytest.mark.parametrize("option", [{"attributes": "all"}, {"grade": {"a": 0.5}}])
def test_shapes_without_attributes_refuse_them(read: Read, option: dict[str, Any]) -> None:
    pair = {"prompt": "Q?", "chosen": "a", "rejected": "b"}
    upvotes = {"history": "Q?", "human_ref_A": "a", "human_ref_B": "b", "score_A": 1, "score_B": 2}
    for row in (pair, upvotes):
        with pytest.raises(UserError, match=f"{next(iter(option))} is set to .*leave it out"):
            read(row, **option)


# ---------------------------------------------------------------------------------------------- a weighted grade


def test_a_weighted_sum_by_hand(read: Read) -> None:
    """The weights of HelpSteer2's reward model of 70B: (4, 4, 4, 2, 2) comes to 7.9."""
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    weights = dict(zip(names, (0.65, 0.8, 0.45, 0.55, -0.4), strict=True))
    rows = [
        {"prompt": "Q?", "response": text, **dict(zip(names, grades, strict=True))}
        for text, grades in (("a", (4, 4, 4, 2, 2)), ("b", (0, 0, 0, 0, 1)))
    ]
    loaded = read(*rows, grade=weights, attributes="all")
    (d,) = loaded.data
    assert d.grades == pytest.approx((7.9, -0.4))
    assert d.attributes["verbosity"] == (2, 1) and sorted(d.attributes) == sorted(names)
    assert not loaded.ledger.unused_feedback
    assert read(*rows, attributes=["complexity"]).data[0].attributes == {"complexity": (2, 0)}
    with pytest.raises(UserError, match=r"no grade 'verbose'. Did you mean 'verbosity'"):
        read(*rows, grade={"verbose": 1})


def test_one_weight_of_one_is_the_attribute(read: Read) -> None:
    row = {**ASKED, **PEOPLE, "attributes": {"truth": [5, 1], "style": [1, 2]}}
    assert read(row, grade={"truth": 1}).data == read(row, grade="truth").data


def test_a_response_that_lacks_an_attribute_has_no_grade(read: Read) -> None:
    row = {**ASKED, "responses": ["a", "b", "c"], "attributes": {"truth": [5, 1, 2], "style": [1, None, 3]}}
    loaded = read(row, grade={"truth": 2, "style": -1})
    assert loaded.data[0].grades == (9, None, 1)
    assert loaded.ledger.notes == ["responses that lack one of the attributes of grade have none (rows: 1)"]
    assert weighted_sum({"a": (1, 2), "b": (None, 3)}, {"a": 1.0, "b": -1.0}) == (None, -1)


def test_the_outputs_of_a_model_are_attributes(read: Read) -> None:
    row = {**ASKED, "scores": [2, 1], "model_scores": [0, 0], "model_scores_by": {"group 1": [1, 2], "group 2": [4, 0]}}
    loaded = read(row, grade={"group 1": 0.5, "group 2": 0.5}, attributes="all", ignore=["scores"])
    assert loaded.data[0].grades == (2.5, 1)
    assert loaded.data[0].attributes == {"group 1": (1, 2), "group 2": (4, 0)}
    assert not read({**row, "model_weights": {"group 1": 1}, "model_scores_of": {"ann": [1, 2]}}).ledger.unused_feedback
    assert read({**row, "model_scores_of": {"ann": [3, 2]}}, grade={"ann": 1}).data[0].grades == (3, 2)


def test_people_and_a_model_who_grade_the_same_attribute_are_told_apart(read: Read) -> None:
    row = {**ASKED, "scores": [2, 1], "attributes": {"truth": [5, 1]}, "model_scores_by": {"truth": [0.1, 0.2]}}
    with pytest.raises(UserError, match=r"truth stands in attributes and in model_scores_by; leave one out"):
        read(row, attributes="all")
    assert read(row, grade="truth", ignore=["model_scores_by"]).data[0].grades == (5, 1)
    assert read(row, attributes="all", ignore=["attributes"]).data[0].attributes == {"truth": (0.1, 0.2)}


# ---------------------------------------------------------------------------------------------- on the hub


def aspect(rating: str) -> dict[str, str]:
    return {"Rating": rating, "Rationale": "so"}


def test_the_aspects_of_ultrafeedback(read: Read) -> None:
    def completion(text: str, overall: float, truth: str, help_: str) -> dict[str, Any]:
        said = {"truthfulness": aspect(truth), "helpfulness": aspect(help_)}
        return {"response": text, "overall_score": overall, "fine-grained_score": overall / 2, "annotations": said}

    row = {"instruction": "2 + 2?", "completions": [completion("4", 8, "5", "4"), completion("5", 3, "1", "N/A")]}
    (d,) = read(row, attributes="all").data
    assert d.grades == (8, 3) and d.attributes == {"helpfulness": (4, None), "truthfulness": (5, 1)}
    assert read(row, grade="truthfulness").data[0].grades == (5, 1)
    assert read(row, grade={"truthfulness": 1, "overall_score": 1}).data[0].grades == (13, 4)
    with pytest.raises(UserError, match="Did you mean 'truthfulness'"):
        read(row, attributes=["truthfullness"])
    row["completions"][0]["annotations"]["truthfulness"] = aspect("five")
    with pytest.raises(UserError, match="Rating is 'five'; give a number, or N/A"):
        read(row, attributes="all")


def test_columns_of_one_response_that_are_not_helpsteers_are_named(read: Read) -> None:
    rows = [{"prompt": "Q?", "response": r, "score": n, "kind": n + 1} for n, r in enumerate("ab")]
    with pytest.raises(UserError, match="have none of HelpSteer2's; name the columns"):
        read(*rows, attributes="all")
    assert read(*rows, attributes=["kind"]).data[0].attributes == {"kind": (1, 2)}


# ---------------------------------------------------------------------------------------------- on the way


def test_attributes_follow_their_responses(tmp_path: Path) -> None:
    rows = [
        {**ASKED, "scores": [2, 1], "attributes": {"truth": [5, 1]}},
        {
            "prompt": ASKED["prompt"],
            "responses": ["In Rome.", "Far."],
            "scores": [1, 0],
            "attributes": {"truth": [1, 0]},
        },
    ]
    path = rows_file(tmp_path, rows)
    data = load({"path": path, "attributes": "all"}).data
    (both,), _ = merge(data)
    assert both.responses == ("In France.", "In Rome.", "Far.") and both.attributes == {"truth": (5, 1, 0)}
    assert rescale(data, "log1p")[1].attributes["truth"][0] == pytest.approx(0.693147, abs=1e-6)
    ours = gather([{"path": path, "attributes": "all"}], Shape(), 3, method=build("mmpo_voices"), cache=tmp_path)
    assert dict(zip(ours.data[0].responses, ours.data[0].attributes["truth"], strict=True)) == {
        "In France.": 5,
        "In Rome.": 1,
        "Far.": 0,
    }


def test_an_attribute_that_is_no_probability_takes_no_logit() -> None:
    d = Datum("1", "Q?", ("a", "b"), (0.5, 0.6), attributes={"truth": (5.0, 1.0)})
    with pytest.raises(
        UserError, match=r"rescale: logit is for .* probabilities between 0 and 1, not for the attribute truth"
    ):
        rescale([d], "logit")


def test_an_attribute_that_nobody_was_graded_on_is_as_long_as_the_others(read: Read) -> None:
    rows = [{**ASKED, "scores": [2, 1], "attributes": {"truth": [None, None], "style": [1, 2]}} for _ in range(2)]
    rows[1]["responses"] = [ASKED["responses"][0], "Far."]
    ((both,), _) = merge(read(*rows, attributes=["truth", "style"]).data)
    assert both.attributes == {"truth": (None, None, None), "style": (1, 2, 2)}


def test_attributes_that_a_method_does_not_read_are_counted(tmp_path: Path) -> None:
    d = Datum("1", "Q?", ("a", "b"), (1, 2), attributes={"truth": (5, 1), "style": (1, 1)})
    (bare,), gone = without_idle([d], build("mmpo"))
    assert not bare.attributes and gone == {"graded attributes": 2}
    assert without_idle([d], build("helpsteer2")) == ([d], {})
    path = rows_file(tmp_path, [to_row(d)])
    found = gather([{"path": path, "attributes": "all"}], Shape(), 3, method=build("lcpo"), cache=tmp_path)
    assert "not read by the method: graded attributes 2" in found.account
    kept = gather(
        [{"path": path, "attributes": "all"}], Shape(), 3, method=build("lcpo"), cache=tmp_path, voices="attributes"
    )
    assert kept.data[0].attributes


# ---------------------------------------------------------------------------------------------- weights in the prompt

GRADED = Datum("7", "Q?", ("a", "b"), (9.0, 9.0), attributes={"help": (4.0, 2.0), "length": (3.0, 0.0)})


def test_a_row_for_each_weighting() -> None:
    made, counts = add_weights([GRADED], [{"help": 0.5, "length": -1.0}, {"help": 1.0}])
    assert [d.grades for d in made] == [(-1.0, 1.0), (4.0, 2.0)]
    assert made[0].prompt == "What counts in your answer: help 0.5, length -1.\n\nQ?"
    assert [d.id for d in made] == ["7/weights 1", "7/weights 2"]
    assert {name: n for name, n in counts.items() if n} == {"data in": 1, "data out": 2}
    chat = weighted_prompt([{"role": "user", "content": "Q?"}], {"help": 1}, "Give {weights}.", "user")
    assert chat == [{"role": "user", "content": "Give help 1.\n\nQ?"}]


def test_weights_are_drawn_from_the_simplex_with_a_seed() -> None:
    data = [GRADED] * 200
    made, _ = add_weights(data, 3, seed=5)
    assert made == add_weights(data, 3, seed=5)[0] != add_weights(data, 3, seed=6)[0]
    told = [
        json.loads("[" + str(d.prompt).split(": help ")[1].split(".\n")[0].replace("length", "") + "]") for d in made
    ]
    assert len(made) == 600 and all(sum(pair) == pytest.approx(1) and min(pair) >= 0 for pair in told)
    # What the prompt says is what the grades are made of; uniform weights have mean 1/2 and variance 1/12.
    for (help_, length), d in zip(told, made, strict=True):
        assert d.grades == pytest.approx((4 * help_ + 3 * length, 2 * help_))
    mean = sum(help_ for help_, _ in told) / len(told)
    assert mean == pytest.approx(0.5, abs=0.05)
    assert sum((h - mean) ** 2 for h, _ in told) / len(told) == pytest.approx(1 / 12, abs=0.01)


def test_what_cannot_be_weighted_is_counted() -> None:
    lacking = Datum("8", "Q?", ("a", "b", "c"), attributes={"help": (1.0, 1.0, None), "length": (0.0, 0.0, 1.0)})
    lacking = replace(lacking, annotator_grades={"Ann": (1.0, 2.0, None)})
    none = Datum("9", "Q?", ("a", "b"), (1.0, 2.0))
    made, counts = add_weights([lacking, none], [{"help": 1.0}])
    assert [d.grades for d in made] == [(1.0, 1.0, None)]
    assert {name: n for name, n in counts.items() if n} == {
        "data in": 2,
        "data out": 1,
        "answers that lack an attribute left ungraded": 1,
        "comparisons that tie under their weights": 1,
        "weightings with fewer than two graded answers skipped": 1,
        "grades of annotators dropped": 1,
    }


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([GRADED], {"weights": [{"helpp": 1.0}]}, "no attribute 'helpp'. Did you mean 'help'"),
        ([GRADED], {"weights": 0}, "weights is 0; draw at least 1"),
        ([GRADED], {"weights": [{"help": 1.0}], "seed": 1}, "seed is for weights that are drawn"),
        ([GRADED], {"template": "weights"}, "no place for the weights"),
        ([Datum("9", "Q?", ("a", "b"), (1.0, 2.0))], {}, "no data have any; set attributes: all"),
    ],
)
def test_wrong_weights_are_named(data: list[Datum], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        add_weights(data, **options)


def test_mmpo_build_weighted(tmp_path: Path, capsys: Any) -> None:
    path = rows_file(tmp_path, [{**ASKED, "attributes": {"truth": [5, 1], "style": [1, 2]}}])
    weights = rows_file(tmp_path, [{"truth": 0.5, "style": 2}, {"style": 1}], "weights.jsonl")
    assert weightings(weights) == [{"truth": 0.5, "style": 2}, {"style": 1}]
    out = str(tmp_path / "out.jsonl")

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as done:
            main(["build", "weighted", path, "--out", out, *words])
        said = capsys.readouterr()
        return int(done.value.code or 0), said.out + said.err

    code, said = run("--weights", weights)
    assert code == 0 and "weighted: data in 1, comparisons that tie under their weights 1, data out 2" in said
    assert [d.grades for d in load(out).data] == [(4.5, 4.5), (1, 2)]
    assert run("--weights", "5", "--seed", "2", "--attributes", "truth")[0] == 0
    assert [d.prompt for d in load(out).data] == ["What counts in your answer: truth 1.\n\nWhere is Paris?"] * 5
    code, said = run("--grade", "truth")
    assert code == 2 and "--grade is set, and build weighted makes the grades" in said
    for wrong, message in (([{"truth": "x"}], "truth is"), ([{}], "has no weight")):
        code, said = run("--weights", rows_file(tmp_path, wrong, "w.jsonl"))
        assert code == 2 and message in said
