"""Several components as one grade: the pairs, the numbers of single components, and a student model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmpo.batch import evidence
from mmpo.cli import main
from mmpo.data import load, pairs_of
from mmpo.data.build import build_rows
from mmpo.data.components import Question, dialogue, student_question
from mmpo.data.outcomes import (
    aggregate,
    graded_by_components,
    rubric_score,
    token_probability,
)
from mmpo.data.rows import BadRow
from mmpo.errors import UserError
from mmpo.evaluate.student import StudentModel
from mmpo.methods import build
from mmpo.targets import BradleyTerry
from mmpo.types import Datum, Judgement, Reading

TEN = {"rubric": (1.0, 10.0)}
HALF = {"outcome": 0.5, "rubric": 0.5}
LESSON = [{"role": "system", "content": "What is 3/4 of 12?"}, {"role": "user", "content": "I think it is 3."}]
ROW = {
    "prompt": "What is 3/4 of 12?\nStudent: 3?", "responses": ["How many quarters?", "It is 9."],
    "outcome": [0.8, 0.4], "rubric": [9, 7],
}  # fmt: skip


def turn(outcome: Sequence[float | None], rubric: Sequence[float | None], **more: Any) -> Datum:
    said = tuple(f"answer {n}" for n in range(len(outcome)))
    return Datum("a", "x", said, attributes={"outcome": tuple(outcome), "rubric": tuple(rubric)}, **more)


def kept(datum: Datum, **how: Any) -> set[tuple[int, int]]:
    """The pairs that are left, none where that is an error."""
    try:
        return set(pairs_of(graded_by_components([datum], **how)[0][0]))
    except UserError:
        return set()


def written(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(words)
    return int(done.value.code or 0)


# ---------------------------------------------------------------------------------------------- by hand


def test_two_candidates_by_hand() -> None:
    (made,), counts = graded_by_components([turn((0.8, 0.4), (9, 7))], scales=TEN)
    assert made.grades == pytest.approx((0.84444, 0.53333), abs=1e-5)
    assert pairs_of(made) == [(0, 1)] and counts["pairs kept"] == 1 and not counts["pairs skipped"]
    said = evidence([made])
    p = BradleyTerry(5.0)(said, torch.zeros_like(said.weight))
    assert float(p[0, 0, 1]) == pytest.approx(0.82571, abs=1e-5)


def test_the_boundary_is_strict() -> None:
    pair = turn((0.4, 0.3), (0.4, 0.3))  # in floating point a hair more than 0.1
    assert kept(pair, eps=0.1) == set() and kept(pair, eps=0.0999) == {(0, 1)}
    assert kept(turn((1, 0), (1, 0)), eps=1) == set()
    four = turn((0.1, 0.5, 0.9, 0.4), (0.3, 0.2, 0.6, 0.8))
    assert len(kept(four, eps=0)) == 6
    (made,), _ = graded_by_components([four], eps=0)
    assert made.pairs is None  # all of them
    tied = turn((0.5, 0.5, 0.9), (0.5, 0.5, 0.9))
    assert kept(tied, eps=0) == {(0, 2), (1, 2)}


@pytest.mark.parametrize(("name", "other"), [("outcome", "rubric"), ("rubric", "outcome")])
def test_a_share_of_one_follows_one_component(name: str, other: str) -> None:
    datum = turn((0.2, 0.9, 0.5), (0.7, 0.1, 0.4))
    (made,), _ = graded_by_components([datum], components={name: 1.0, other: 0.0})
    assert made.grades == datum.attributes[name]
    (alone,), _ = graded_by_components([datum], components={name: 1.0})
    assert alone.grades == made.grades and alone.attributes[other] == datum.attributes[other]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=2, max_size=6),
    st.integers(0, 10),
    st.integers(0, 10),
)
def test_pareto_pairs_are_some_of_the_weighted_ones_for_every_share(
    scores: list[tuple[int, int]], share: int, eps: int
) -> None:
    datum = turn([a / 20 for a, _ in scores], [b / 20 for _, b in scores])
    mixed = {"components": {"outcome": share / 10, "rubric": 1 - share / 10}, "eps": eps / 20}
    pareto, weighted = kept(datum, **mixed, mode="pareto"), kept(datum, **mixed)
    assert pareto <= weighted
    both = {(i, j) for i, j in combinations(range(len(scores)), 2) if _ahead(scores, i, j, eps)}
    assert pareto == both


def _ahead(scores: list[tuple[int, int]], i: int, j: int, eps: int) -> bool:
    gaps = [a - b for a, b in zip(scores[i], scores[j], strict=True)]
    return min(gaps) > eps or max(gaps) < -eps


def test_probabilities_of_skills() -> None:
    assert aggregate((0.9, 0.4)) == pytest.approx(0.65)
    assert aggregate((0.9, 0.4), "product") == pytest.approx(0.36)
    assert aggregate((0.9, 0.4), "geometric") == pytest.approx(0.6)
    assert token_probability([2.0, 0.0], 0, 1) == pytest.approx(0.8808, abs=1e-4)
    many = np.array([[9.0, 2.0, 0.0], [9.0, 0.0, 2.0]])
    assert token_probability(many, 1, 2) == pytest.approx([0.8808, 0.1192], abs=1e-4)
    with pytest.raises(UserError, match="aggregate is 'median'"):
        aggregate([0.5], "median")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no probability"):
        aggregate([])


def test_rubrics() -> None:
    six = {"accuracy": True, "progress": 1, "errors": 0, "hints": False, "withholds": 1, "encourages": True}
    judged = {**six, "overall": 9}
    assert rubric_score(judged) == 9 and rubric_score(judged, "criteria") == pytest.approx(4 / 6)
    assert rubric_score(f"My verdict:\n```json\n{json.dumps(judged)}\n```") == 9
    assert rubric_score(7.5) == 7.5
    for value, by, message in (
        (six, "overall", "no overall number"),
        ({"overall": 3}, "criteria", "no binary criteria"),
        ({"accuracy": 0.5}, "criteria", "no binary criteria"),
        ("fine work", "overall", "no JSON object"),
        ("9", "overall", "no JSON object"),
        (None, "overall", "is null"),
    ):
        with pytest.raises(BadRow, match=message):
            rubric_score(value, by)  # type: ignore[arg-type]


@pytest.mark.parametrize(("gamma", "near"), [(1e4, "dpo"), (0.0, "coin")])
def test_mmpo_on_these_margins_lies_between_dpo_and_a_coin(gamma: float, near: str) -> None:
    """gamma -> infinity on the pairs that are kept is DPO; gamma 0 says 1/2 of all and teaches nothing at M = 0."""
    made, _ = graded_by_components([turn((0.8, 0.4, 0.45), (0.9, 0.7, 0.6))], eps=0.1)
    said = evidence(made)
    logps = torch.tensor([[-3.0, -2.0, -2.5]], dtype=torch.float64)

    def loss(name: str, at: torch.Tensor, **how: float) -> torch.Tensor:
        return build(name, beta=0.1, **how)(said, Reading(said.mask, at, torch.full_like(at, -2.0))).loss

    soft = loss("mmpo", logps, gamma=gamma)
    if near == "dpo":
        assert soft.item() == pytest.approx(loss("dpo", logps).item())
        return
    begin = torch.full_like(logps, -2.0).requires_grad_()
    (slope,) = torch.autograd.grad(loss("mmpo", begin, gamma=gamma), begin)
    assert not slope.any() and loss("mmpo", begin, gamma=gamma).item() == pytest.approx(math.log(2))


# ---------------------------------------------------------------------------------------------- what is left out


def test_everything_left_out_is_counted() -> None:
    data = [
        turn(
            (0.8, 0.4, None), (0.9, 0.7, 0.1),
            judgements=(Judgement(0, 1, p=1.0),), annotator_grades={"ann": (1.0, 2.0, 3.0)},
        ),
        turn((0.5, 0.5), (0.5, 0.5)),
    ]  # fmt: skip
    made, counts = graded_by_components(data)
    assert [d.grades for d in made] == [(pytest.approx(0.85), pytest.approx(0.55), None)]
    assert not made[0].judgements and not made[0].annotator_grades and pairs_of(made[0]) == [(0, 1)]
    assert counts == {
        "data in": 2, "data out": 1, "pairs kept": 1, "pairs skipped": 1, "responses without a component": 1,
        "data without a pair dropped": 1, "statements about pairs dropped": 1, "grades of annotators dropped": 1,
    }  # fmt: skip


def test_pairs_that_nobody_compared_stay_apart() -> None:
    assert kept(turn((0.1, 0.5, 0.9), (0.1, 0.5, 0.9), grades=(1.0, 2.0, 3.0), pairs=((0, 2),))) == {(0, 2)}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"components": {"outcome": 0.5, "rubric": 0.4}}, "outcome=0.5, rubric=0.4; give shares of at least 0"),
        ({"components": {"outcome": 1.5, "rubric": -0.5}}, "give shares of at least 0"),
        ({"components": {}}, "components are none"),
        ({"components": {"outcome": 0.5, "tone": 0.5}, "scales": {}}, "a: there is no tone; the attributes are"),
        ({"scales": {"tone": (0, 1)}}, "'tone', which is no component"),
        ({"scales": {"rubric": (10, 1)}}, "the scale of rubric is 10 to 1"),
        ({"scales": {}}, "response 0 is 9, which is not within 0 to 1; give its scale, as --scales rubric=1:10"),
        ({"eps": -0.1}, "eps is -0.1"),
        ({"mode": "best"}, "mode is 'best'"),
        ({"eps": 1.0}, r"no two responses differ by more than 1 \(weighted\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(how: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        graded_by_components([turn((0.8, 0.4), (9, 7))], **{"scales": TEN, **how})


# ---------------------------------------------------------------------------------------------- rows


def test_columns_attributes_and_judgements_say_the_same(tmp_path: Path) -> None:
    bare = {name: ROW[name] for name in ("prompt", "responses")}
    rows = [
        ROW,
        {**bare, "attributes": {"outcome": [0.8, 0.4], "rubric": [9, 7]}},
        {**bare, "attributes": {"outcome": [0.8, 0.4]}, "rubric": [{"overall": 9}, '{"overall": 7}']},
    ]
    for n, row in enumerate(rows):
        path = written(tmp_path / f"{n}.jsonl", row)
        _, (made,), _ = build_rows("outcomes", path, scales=TEN)
        assert made.grades == pytest.approx((0.84444, 0.53333), abs=1e-5)
    _, (by_criteria,), _ = build_rows(
        "outcomes",
        written(tmp_path / "c.jsonl", {**ROW, "rubric": [{"a": 1, "b": 1, "overall": 2}, {"a": 1, "b": 0}]}),
        rubric="criteria",
    )
    assert by_criteria.attributes["rubric"] == (1.0, 0.5)


def test_one_response_a_row_with_other_components(tmp_path: Path) -> None:
    answers = [{"prompt": "x", "response": f"answer {n}", "correctness": n, "helpfulness": 4 - n} for n in (4, 1)]
    _, (made,), _ = build_rows(
        "outcomes",
        written(tmp_path / "rows.jsonl", *answers),
        components={"correctness": 0.75, "helpfulness": 0.25},
        scales={"correctness": (0, 4), "helpfulness": (0, 4)},
    )
    assert made.grades == pytest.approx((0.75, 0.375)) and made.responses == ("answer 4", "answer 1")


def test_other_shares_without_building_anew(tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    assert (
        run("build", "outcomes", written(tmp_path / "rows.jsonl", ROW), "--out", str(out), "--scales", "rubric=1:10")
        == 0
    )
    (again,) = load({"path": str(out), "grade": {"outcome": 1.0, "rubric": 0.0}}).data
    assert again.grades == (0.8, 0.4)
    (stated,) = load(str(out)).data
    assert stated.grades == pytest.approx((0.84444, 0.53333), abs=1e-5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "attributes": {"rubric": [1, 2]}}, "rubric stands in a column and in attributes"),
        ({**ROW, "rubric": [9]}, "attributes.rubric has 1 entries for 2 responses"),
        ({**ROW, "rubric": [9, "good"]}, r"rubric\[1\] holds no JSON object"),
        ({**ROW, "outcome": 0.8}, "outcome is 0.8; give a list"),
    ],
)
def test_bad_rows_say_what_to_mend(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"rows.jsonl:1: {message}"):
        build_rows("outcomes", written(tmp_path / "rows.jsonl", row), scales=TEN)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--components", "outcome"], "--components is 'outcome'; give a share for each"),
        (["--components", "outcome=half"], "--components is 'half'; give a share for each"),
        (["--scales", "rubric=10"], "--scales is 'rubric=10'; give the lowest and the highest value"),
        (["--aggregate", "product"], "--aggregate is for what a student tells; give --student"),
        (["--grade", "rubric"], "grade is set, and components say what the grade is made of"),
        (["--degrees", "2"], "--degrees is no option of build outcomes; it has components, rubric, student, aggregate"),
    ],
)
def test_a_wrong_flag_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = written(tmp_path / "rows.jsonl", ROW)
    assert run("build", "outcomes", rows, "--out", str(tmp_path / "o.jsonl"), *words) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "o.jsonl").exists()


# ---------------------------------------------------------------------------------------------- a student


def test_the_lesson_as_a_student_reads_it() -> None:
    expected = "What is 3/4 of 12?\nStudent: I think it is 3.\nTutor: How many quarters?"
    assert dialogue(LESSON, [{"role": "assistant", "content": "How many quarters?"}]) == expected
    assert dialogue("Exercise.", "Try again.") == "Exercise.\nTutor: Try again."
    asked = student_question(LESSON, "How many quarters?", "fractions of numbers")
    assert asked.startswith(expected) and "fractions of numbers" in asked and asked.endswith("True or False?")


def test_skills_are_asked_for_each_response_and_mixed(tmp_path: Path) -> None:
    seen: list[Question] = []

    def student(questions: Sequence[Question]) -> list[float]:
        seen.extend(questions)
        return [0.9 if "fractions" in q.text else 0.4 if "quarters?" in q.text else 0.1 for q in questions]

    row = {name: value for name, value in ROW.items() if name != "outcome"} | {
        "id": "7",
        "skills": ["fractions", "division"],
    }
    path = written(tmp_path / "rows.jsonl", row, {**row, "id": "8", "skills": []})
    how: dict[str, Any] = {"scales": TEN, "student": student, "on_bad_row": "drop"}
    loaded, (made,), counts = build_rows("outcomes", path, **how)
    assert made.attributes["outcome"] == pytest.approx((0.65, 0.5))
    assert counts["questions to the student"] == len(seen) == 4 and {q.source for q in seen} == {"7"}
    assert list(loaded.ledger.dropped) == ["no skills"]
    _, (other,), _ = build_rows("outcomes", path, **how, aggregate="product")
    assert other.attributes["outcome"] == pytest.approx((0.36, 0.09))
    with pytest.raises(UserError, match="outcome is given, and the student gives it too"):
        build_rows(
            "outcomes", written(tmp_path / "twice.jsonl", {**row, "outcome": [1, 0]}), scales=TEN, student=student
        )
    with pytest.raises(UserError, match="the student gives 'outcome', which is no component"):
        build_rows("outcomes", path, components={"rubric": 1.0}, scales=TEN, student=student)


@pytest.fixture(params=["chat", "plain"])
def student_folder(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_policy: Callable[..., Any], tiny_tokenizer: Any
) -> str:
    from copy import deepcopy

    tokenizer = deepcopy(tiny_tokenizer)
    if request.param == "plain":
        tokenizer.chat_template = None
    tiny_policy(3).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    return str(tmp_path / "student")


@torch.no_grad()
def test_a_student_is_read_at_the_next_token(student_folder: str) -> None:
    """The probability of the packed reading is the softmax of two logits of the plain model, question by question."""
    student = StudentModel.load(student_folder)
    questions = [Question(f"Lesson {'with more words ' * n}\nTrue or False?", str(n)) for n in range(4)]
    found = student(questions, batch_tokens=200)
    tokenizer, model = student.scorer.tokenizer, student.scorer.model
    for question, p in zip(questions, found, strict=True):
        words = ("True", "False") if tokenizer.chat_template else (" True", " False")
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": question.text}]
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        else:
            text = tokenizer.bos_token + question.text
        yes, no = (tokenizer(text + word, add_special_tokens=False)["input_ids"] for word in words)
        at = next(n for n, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b)
        logits = model(torch.tensor([yes[:at]], device=model.device)).logits[0, -1]
        assert p == pytest.approx(logits[[yes[at], no[at]]].softmax(-1)[0].item(), abs=1e-5)


def test_a_student_on_the_command_line(student_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prompt": LESSON, "responses": ["How many quarters?", "It is 9."], "rubric": [9, 2], "skills": ["fractions"]}
    rows, out = written(tmp_path / "rows.jsonl", row), tmp_path / "pairs.jsonl"
    words = ["build", "outcomes", rows, "--out", str(out), "--scales", "rubric=1:10", "--student", student_folder]
    assert run(*words) == 0
    assert "questions to the student 2" in capsys.readouterr().out
    made = json.loads(out.read_text())
    assert all(0 < p < 1 for p in made["attributes"]["outcome"]) and len(made["scores"]) == 2
    assert run(*words, "--max-length", "8") == 2
    assert "leaves no room for a response" in capsys.readouterr().err


def test_a_reward_model_is_no_student(tmp_path: Path, tiny_reward: Callable[..., Any], tiny_tokenizer: Any) -> None:
    tiny_reward().save_pretrained(tmp_path / "reward")
    tiny_tokenizer.save_pretrained(tmp_path / "reward")
    with pytest.raises(UserError, match="is a reward model"):
        StudentModel.load(str(tmp_path / "reward"))
