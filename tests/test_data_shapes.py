"""Every row shape loads unchanged, and every bad row is named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mmpo.data import Loaded, Source, load
from mmpo.errors import UserError
from mmpo.types import Datum, Judgement


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Rows as a .jsonl file, loaded with the options of Source or load."""

    def run(*rows: dict[str, Any], on_bad_row: Any = "error", **options: Any) -> Loaded:
        path = write(tmp_path / "prefs.jsonl", list(rows))
        return load(Source(str(path), **options), on_bad_row=on_bad_row)

    return run


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


PAIR = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
GRADED = {"prompt": "2 + 2?", "responses": ["4", "four, I think", "5"]}
TWO = {"prompt": "2 + 2?", "responses": ["4", "5"]}


# ---------------------------------------------------------------------------------------------- chosen and rejected


def test_a_plain_pair_is_one_vote(read: Any) -> None:
    loaded = read(PAIR)
    (d,) = loaded.data
    assert (d.prompt, d.responses, d.grades) == ("2 + 2?", ("4", "5"), None)
    assert d.judgements == (Judgement(0, 1, p=1.0),)
    assert loaded.ledger.provides == {"votes": 1}


@pytest.mark.parametrize(
    "names",
    [
        ("score_chosen", "score_rejected"),
        ("chosen_score", "rejected_score"),
        ("chosen_rating", "rejected_rating"),
        ("chosen-rating", "rejected-rating"),
    ],
)
def test_scores_replace_the_label(read: Any, names: tuple[str, str]) -> None:
    loaded = read({**PAIR, names[0]: 8, names[1]: 6.5})
    (d,) = loaded.data
    assert d.grades == (8.0, 6.5) and d.judgements == ()
    assert loaded.ledger.provides == {"grades": 1}


def test_scores_against_the_label_are_told(read: Any) -> None:
    ledger = read({**PAIR, "score_chosen": 1, "score_rejected": 2}).ledger
    assert ledger.notes == ["the chosen response has the lower score; the scores were used (rows: 1)"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"p_chosen": 0.7}, Judgement(0, 1, p=0.7)),
        ({"votes_chosen": 3, "votes_total": 4}, Judgement(0, 1, p=0.75, count=4)),
        ({"votes_chosen": 3, "votes_rejected": 1}, Judgement(0, 1, p=0.75, count=4)),
        ({"votes_chosen": 3, "votes_total": 4, "p_chosen": 0.75}, Judgement(0, 1, p=0.75, count=4)),
    ],
)
def test_votes_and_probabilities_of_a_pair(read: Any, columns: dict[str, Any], expected: Judgement) -> None:
    loaded = read({**PAIR, **columns})
    assert loaded.data[0].judgements == (expected,)
    assert not loaded.ledger.notes


def test_scores_and_a_probability_are_both_kept(read: Any) -> None:
    loaded = read({**PAIR, "score_chosen": 8, "score_rejected": 6, "p_chosen": 0.9})
    assert loaded.data[0].grades == (8, 6) and loaded.data[0].judgements == (Judgement(0, 1, p=0.9),)
    assert loaded.ledger.provides == {"grades": 1, "votes": 1}


def test_a_probability_that_contradicts_the_votes_is_told(read: Any) -> None:
    ledger = read({**PAIR, "votes_chosen": 3, "votes_total": 4, "p_chosen": 0.5}).ledger
    assert "p_chosen differs from the share of votes" in ledger.notes[0]


def test_the_weight_of_a_row_is_the_weight_of_its_datum(read: Any) -> None:
    assert read({**PAIR, "weight": 0.25}).data[0].weight == 0.25


def test_a_margin_without_a_meaning_is_refused(read: Any) -> None:
    with pytest.raises(UserError, match=r"prefs\.jsonl.*'margin' means two things.*'gap'.*'offset'.*'ignore'"):
        read({**PAIR, "margin": 1.5})


@pytest.mark.parametrize(
    ("meaning", "expected", "provides"),
    [
        ("gap", [Judgement(0, 1, gap=1.5)], {"grades": 1}),
        ("offset", [Judgement(0, 1, p=1.0), Judgement(0, 1, gap=1.5)], {"offset": 1, "votes": 1}),
        ("ignore", [Judgement(0, 1, p=1.0)], {"votes": 1}),
    ],
)
def test_the_meanings_of_margin(read: Any, meaning: str, expected: list[Judgement], provides: dict[str, int]) -> None:
    loaded = read({**PAIR, "margin": 1.5}, margin=meaning)
    assert list(loaded.data[0].judgements) == expected
    assert loaded.ledger.provides == provides
    assert loaded.ledger.columns_left == ({"margin": 1} if meaning == "ignore" else {})
    assert not loaded.ledger.unused_feedback


def test_a_margin_of_two_responses(read: Any) -> None:
    loaded = read({**TWO, "margin": -2, "votes": [1, 1, 0, -1]}, margin="gap")
    assert loaded.data[0].judgements == (Judgement(0, 1, p=0.375, count=4), Judgement(0, 1, gap=-2))


def test_a_stated_gap_replaces_the_scores_and_that_is_told(read: Any) -> None:
    loaded = read({**PAIR, "margin": 3, "score_chosen": 9, "score_rejected": 8}, margin="gap")
    assert loaded.data[0].grades is None and loaded.ledger.unused_feedback == ["score_chosen", "score_rejected"]
    loaded = read({**PAIR, "margin": 3, "score_chosen": 9, "score_rejected": 8}, margin="ignore")
    assert loaded.data[0].grades == (9, 8) and loaded.ledger.columns_left == {"margin": 1}


# ---------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize("prompt", ["2 + 2?", [user("2 + 2?")]])
def test_conversational_rows(read: Any, prompt: Any) -> None:
    (d,) = read({"prompt": prompt, "chosen": [bot("4")], "rejected": [bot("5")]}).data
    assert d.prompt == [user("2 + 2?")] and d.responses == ([bot("4")], [bot("5")])


def test_a_prompt_of_messages_with_plain_responses(read: Any) -> None:
    (d,) = read({**TWO, "prompt": [user("2 + 2?")], "preferred": 0}).data
    assert d.responses == ([bot("4")], [bot("5")])


@pytest.mark.parametrize("prompt", ["2 + 2?", [user("2 + 2?")]])
def test_responses_that_repeat_the_prompt_are_stripped(read: Any, prompt: Any) -> None:
    """The rows of ultrafeedback_binarized: a prompt in words, and both responses as whole dialogues."""
    row = {"prompt": prompt, "chosen": [user("2 + 2?"), bot("4")], "rejected": [user("2 + 2?"), bot("5")]}
    (d,) = read({**row, "score_chosen": 8, "score_rejected": 7}).data
    assert d.prompt == [user("2 + 2?")] and d.responses == ([bot("4")], [bot("5")])


def test_a_system_turn_stays_in_the_prompt(read: Any) -> None:
    opening = [{"role": "system", "content": "Be brief."}, user("2 + 2?")]
    (d,) = read({"prompt": "2 + 2?", "chosen": [*opening, bot("4")], "rejected": [*opening, bot("5")]}).data
    assert d.prompt == opening


def test_responses_that_repeat_another_prompt_are_bad(read: Any) -> None:
    with pytest.raises(UserError, match=r"prefs\.jsonl:1: .*not the prompt"):
        read({"prompt": "3 + 3?", "chosen": [user("2 + 2?"), bot("4")], "rejected": [user("2 + 2?"), bot("5")]})


def test_the_implicit_prompt_of_messages(read: Any) -> None:
    shared = [user("Hello"), bot("Hello!"), user("2 + 2?")]
    (d,) = read({"chosen": [*shared, bot("4")], "rejected": [*shared, bot("5")]}).data
    assert d.prompt == shared and d.responses == ([bot("4")], [bot("5")])


def test_identical_dialogues_still_have_a_response(read: Any) -> None:
    (d,) = read({"chosen": [user("2 + 2?"), bot("4")], "rejected": [user("2 + 2?"), bot("4")]}).data
    assert d.prompt == [user("2 + 2?")] and d.responses == ([bot("4")], [bot("4")])


def test_dialogues_that_part_at_a_user_turn(read: Any) -> None:
    chosen, rejected = ([user("Hi"), bot("Yes?"), user(ask), bot("4")] for ask in ("2 + 2?", "1 + 3?"))
    (d,) = read({"chosen": chosen, "rejected": rejected}).data
    assert d.prompt == [user("Hi")] and d.responses == (chosen[1:], rejected[1:])


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("\n\nHuman: hi\n\nAssistant: I am", "\n\nHuman: hi\n\nAssistant: I was", "\n\nHuman: hi\n\nAssistant:"),
        ("2 + 2 is 14", "2 + 2 is 15", "2 + 2 is"),
        ("Human: hi\n\nAssistant: yes", "Human: hi\n\nAssistant: yes, sir", "Human: hi\n\nAssistant:"),
    ],
)  # fmt: skip
def test_the_implicit_prompt_of_strings(read: Any, chosen: str, rejected: str, prompt: str) -> None:
    (d,) = read({"chosen": chosen, "rejected": rejected}).data
    assert d.prompt == prompt
    assert d.responses == (chosen.removeprefix(prompt), rejected.removeprefix(prompt))


def test_strings_with_nothing_in_common_have_no_prompt(read: Any) -> None:
    with pytest.raises(UserError, match="no prompt"):
        read({"chosen": "four", "rejected": "5"})


# ---------------------------------------------------------------------------------------------- prompt and responses


def test_scores_and_ranks(read: Any) -> None:
    scored, ranked = read({**GRADED, "scores": [3, 2, -1]}, {**GRADED, "ranks": [1, 2, 3]}).data
    assert scored.grades == (3, 2, -1) and not scored.ranked
    assert ranked.grades == (-1, -2, -3) and ranked.ranked


def test_votes_of_named_annotators_are_one_judgement_each(read: Any) -> None:
    loaded = read({**TWO, "votes": [0, 1, -1], "annotators": ["ann", "bob", "cy"], "p_first": 0.5, "preferred": None})
    assert loaded.data[0].judgements == (
        Judgement(0, 1, p=1.0, annotator="ann"),
        Judgement(0, 1, p=0.0, annotator="bob"),
        Judgement(0, 1, p=0.5, annotator="cy"),
    )
    assert loaded.ledger.provides == {"votes": 1, "annotators": 1}
    assert not loaded.ledger.unused_feedback and not loaded.ledger.notes


def test_votes_without_names_are_one_share(read: Any) -> None:
    assert read({**TWO, "votes": [0, 0, 1, -1]}).data[0].judgements == (Judgement(0, 1, p=0.625, count=4),)


def test_weights_align_with_votes(read: Any) -> None:
    said = read({**TWO, "votes": [0, 1], "weights": [2, 0.5]}).data[0].judgements
    assert said == (Judgement(0, 1, p=1.0, weight=2), Judgement(0, 1, p=0.0, weight=0.5))


def test_the_probabilities_of_annotators_are_finer_than_their_votes(read: Any) -> None:
    row = {**TWO, "annotators": ["a", "b"], "votes": [0, 1], "annotator_p_first": [0.8, 0.1], "p_first": 0.45}
    assert [j.p for j in read(row).data[0].judgements] == [0.8, 0.1]


@pytest.mark.parametrize(
    ("columns", "p"), [({"p_first": 0.3}, 0.3), ({"p_first": 0.3, "preferred": 1}, 0.3), ({"preferred": 1}, 0.0)]
)
def test_the_same_information_is_not_counted_twice(read: Any, columns: dict[str, Any], p: float) -> None:
    assert [j.p for j in read({**TWO, **columns}).data[0].judgements] == [p]


def test_preferred_beside_scores_is_no_vote(read: Any) -> None:
    loaded = read({**TWO, "scores": [1, 2], "preferred": 1})
    assert loaded.data[0].judgements == () and not loaded.ledger.unused_feedback


def test_scores_beside_votes_are_both_kept(read: Any) -> None:
    loaded = read({**TWO, "scores": [2, 1], "votes": [0, 0, 1]})
    assert loaded.data[0].grades == (2, 1) and loaded.data[0].judgements[0].count == 3


def test_pairwise_statements(read: Any) -> None:
    (d,) = read({**GRADED, "pairwise": [[0, 1, 0], [0, 2, -1], [2, 1, 1]], "scores": [2, 1, 0]}).data
    assert d.judgements == (Judgement(0, 1, p=1.0), Judgement(0, 2, p=0.5), Judgement(2, 1, p=0.0))
    assert d.grades == (2, 1, 0) and d.pairs is None


def test_annotator_scores(read: Any) -> None:
    row = {**GRADED, "annotators": ["a", "b"], "annotator_scores": [[1, 2, 3], [3, None, 5]]}
    loaded = read({**row, "scores": [9, 9, 8]}, row)
    assert loaded.data[0].annotator_grades == {"a": (1, 2, 3), "b": (3, None, 5)}
    assert loaded.data[0].grades == (9, 9, 8)
    assert loaded.data[1].grades == (2, 2, 4)
    assert loaded.ledger.provides == {"grades": 2, "annotators": 2}


def test_an_attribute_as_the_grade(read: Any) -> None:
    row = {
        **TWO,
        "scores": [1, 2],
        "attributes": {"truth": [5, 1], "style": [1, 1]},
        "annotator_attributes": {"truth": [[4, 1], [6, 1]]},
        "annotators": ["a", "b"],
    }
    (d,) = read(row, grade="truth").data
    assert d.grades == (5, 1) and d.annotator_grades == {"a": (4, 1), "b": (6, 1)}
    assert "scores" in read(row, grade="truth").ledger.unused_feedback
    with pytest.raises(UserError, match="Did you mean 'truth'"):
        read(row, grade="thruth")
    del row["scores"]
    with pytest.raises(UserError, match="set grade to one of: style, truth"):
        read(row)


# ---------------------------------------------------------------------------------------------- hub data sets


def test_ultrafeedback(read: Any) -> None:
    def completion(text: str, overall: float, fine: float) -> dict[str, Any]:
        return {"model": "m", "response": text, "overall_score": overall, "fine-grained_score": fine, "critique": "c"}

    row = {
        "source": "s",
        "instruction": "2 + 2?",
        "models": ["a", "b"],
        "completions": [completion("4", 8, 4.5), completion("5", 3, 2.25)],
    }
    (d,) = read(row).data
    assert (d.prompt, d.responses, d.grades) == ("2 + 2?", ("4", "5"), (8, 3))
    assert read(row, grade="fine-grained_score").data[0].grades == (4.5, 2.25)
    with pytest.raises(UserError, match="Did you mean 'fine-grained_score'"):
        read(row, grade="fine_grained_score")


def test_shp(read: Any) -> None:
    row = {
        "post_id": "x",
        "history": "Why?",
        "human_ref_A": "so",
        "human_ref_B": "because",
        "score_A": 3,
        "score_B": 40,
    }
    loaded = read({**row, "labels": 0}, {**row, "labels": 1})
    assert [d.grades for d in loaded.data] == [(3, 40), (3, 40)]
    assert loaded.ledger.notes == ["labels disagrees with score_A and score_B; the scores were used (rows: 1)"]


def test_helpsteer2_rows_are_gathered_by_prompt(read: Any) -> None:
    rest = {"correctness": 1, "coherence": 4, "complexity": 2, "verbosity": 0}
    said = [("p", "a", 4), ("q", "c", 1), ("p", "b", 2), ("q", "d", 0), ("p", "e", 3), ("lone", "f", 3)]
    rows = [{"prompt": p, "response": r, "helpfulness": h, **rest} for p, r, h in said]
    loaded = read(*rows)
    assert [(d.prompt, d.responses, d.grades) for d in loaded.data] == [
        ("p", ("a", "b", "e"), (4, 2, 3)),
        ("q", ("c", "d"), (1, 0)),
    ]
    ledger = loaded.ledger
    assert (ledger.rows_in, ledger.rows_used, ledger.data) == (6, 5, 2)
    assert ledger.dropped["the only response to its prompt"].count == 1
    assert read(*rows, grade="verbosity").data[0].grades == (0, 0, 0)
    with pytest.raises(UserError, match="Did you mean 'correctness'"):
        read(*rows, grade="corectness")


def test_helpsteer2_preference(read: Any) -> None:
    row = {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 2, "preference_statement": "..."}
    loaded = read(row)
    assert loaded.data[0].judgements == (Judgement(0, 1, gap=-2.0),)
    assert loaded.ledger.columns_left == {"preference_statement": 1} and not loaded.ledger.unused_feedback


def test_helpsteer3(read: Any) -> None:
    row = {
        "context": [user("2 + 2?")],
        "response1": "4",
        "response2": "5",
        "overall_preference": -2,
        "individual_preference": [{"score": -3, "reasoning": ""}, {"score": 0}, {"score": 1}],
    }
    (d,) = read(row).data
    assert d.prompt == [user("2 + 2?")] and d.responses == ([bot("4")], [bot("5")])
    assert d.judgements[0] == Judgement(0, 1, gap=2.0)
    assert [(j.p, j.annotator) for j in d.judgements[1:]] == [(1, "annotator1"), (0.5, "annotator2"), (0, "annotator3")]


def test_nectar(read: Any) -> None:
    answers = [{"answer": a, "model": "m", "rank": r} for a, r in (("x", 2), ("y", 1), ("z", 3))]
    (d,) = read({"prompt": "\n\nHuman: hi\n\nAssistant: ", "answers": answers, "num_responses": 3}).data
    assert d.responses == ("x", "y", "z") and d.grades == (-2, -1, -3) and d.ranked


# ---------------------------------------------------------------------------------------------- bad rows

BAD_ROWS = [
    ({**PAIR, "score_chosen": 1, "score_rejected": math.nan}, "score_rejected is NaN; give a finite number"),
    ({**PAIR, "score_chosen": math.inf, "score_rejected": 1}, "score_chosen is inf"),
    ({**PAIR, "score_chosen": "8", "score_rejected": 1}, 'score_chosen is "8"'),
    ({**PAIR, "score_chosen": True, "score_rejected": 1}, "score_chosen is true"),
    ({**PAIR, "score_chosen": 1, "score_rejected": None}, "score_rejected is null"),
    ({**PAIR, "score_chosen": 1}, "give both"),
    ({**PAIR, "chosen": " \n"}, "chosen is empty"),
    ({**PAIR, "rejected": None}, "rejected is null"),
    ({**PAIR, "rejected": [bot("")]}, "rejected is empty"),
    ({**PAIR, "rejected": [{"content": "no role"}]}, "rejected is .*role"),
    ({**PAIR, "prompt": ""}, "prompt is empty"),
    ({**PAIR, "p_chosen": 1.2}, "p_chosen is 1.2; give a probability"),
    ({**PAIR, "votes_chosen": 5, "votes_total": 4}, "votes_chosen is 5 of 4"),
    ({**PAIR, "votes_chosen": 5}, "votes_rejected is missing"),
    ({**PAIR, "weight": -1}, "weight is -1"),
    ({**PAIR, "weight": None}, "weight is null"),
    ({"chosen": [user("a"), bot("b")], "rejected": "a c"}, "write both the same way"),
    ({**GRADED, "scores": [1, math.nan, 2]}, r"scores\[1\] is NaN"),
    ({**GRADED, "scores": [1, None, 2]}, r"scores\[1\] is null"),
    ({**GRADED, "scores": [1, 2]}, "scores has 2 entries for 3"),
    ({**GRADED, "scores": 3}, "scores is 3; give a list"),
    ({**GRADED, "ranks": [1, 2]}, "ranks has 2 entries"),
    ({"prompt": "p", "responses": ["only"], "scores": [1]}, "at least 2"),
    ({"prompt": "p", "responses": ["a", ""], "scores": [1, 2]}, r"responses\[1\] is empty"),
    ({"prompt": "p", "responses": ["a", 7], "scores": [1, 2]}, r"responses\[1\] is 7"),
    ({"responses": ["a", "b"], "scores": [1, 2]}, "prompt is missing"),
    (GRADED, "there is no feedback"),
    ({**TWO, "preferred": None}, "preferred is null"),
    ({**TWO, "preferred": 2}, "preferred is 2; votes are 0"),
    ({**TWO, "votes": [0, 2]}, r"votes\[1\] is 2; votes are 0"),
    ({**TWO, "votes": [True, 0]}, r"votes\[0\] is True"),
    ({**TWO, "votes": [[0], 1]}, r"votes\[0\] is \[0\]"),
    ({**TWO, "votes": []}, "votes is empty"),
    ({**TWO, "votes": [0, 1], "annotators": ["a"]}, "annotators has 1 entries for 2"),
    ({**GRADED, "votes": [0, 1]}, "votes needs exactly 2 responses"),
    ({**TWO, "p_first": -0.1}, "p_first is -0.1"),
    ({**GRADED, "pairwise": [[0, 1, 2]]}, r"pairwise\[0\] is 2; votes"),
    ({**GRADED, "pairwise": [[0, 3, 1]]}, "compares 0 with 3"),
    ({**GRADED, "pairwise": [[1, 1, 1]]}, "compares 1 with 1"),
    ({**GRADED, "pairwise": [[0, 0.5, 1]]}, "compares 0 with 0.5"),
    ({**GRADED, "pairwise": [[0, 1]]}, r"give \[i, j, vote\]"),
    ({**GRADED, "judgements": [{"first": 0, "second": 3, "p": 1}]}, "compares 0 with 3"),
    ({**GRADED, "judgements": [{"first": 0, "second": 1}]}, "neither p nor gap"),
    ({**GRADED, "judgements": [{"first": 0, "second": 1, "q": 1}]}, "is no mapping of annotator, count"),
    ({**GRADED, "scores": [1, 2, 3], "pairs": [[0, 1, 2]]}, "pairs holds something else"),
    ({**GRADED, "annotator_scores": [[1, 2]]}, "annotator_scores.0. has 2 entries"),
    ({**GRADED, "annotator_scores": [[1, 2, 3], [1, 2, 3]], "annotators": ["a", "a"]}, "one annotator twice"),
    ({"instruction": "p", "completions": [{"response": "a", "overall_score": 1}]}, "completions has 1 entries"),
    ({"instruction": "p", "completions": [{"response": "a"}, {"response": "b"}]}, "overall_score is missing"),
    ({"text": "hello", "source": "web"}, "no known row shape; the columns are source, text; known shapes: Ultra"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS)
def test_a_bad_row_is_an_error_that_names_it_or_a_counted_drop(read: Any, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"prefs\.jsonl:2: .*{message}.*drop the row") as caught:
        read(PAIR, bad)
    assert "\n" not in str(caught.value)
    loaded = read(PAIR, bad, PAIR, on_bad_row="drop")
    (dropped,) = loaded.ledger.dropped.values()
    assert len(loaded.data) == 2 and dropped.count == 1 and dropped.rows[0].endswith("prefs.jsonl:2")


def test_a_null_margin_is_a_bad_row(read: Any) -> None:
    with pytest.raises(UserError, match=r"prefs\.jsonl:2: margin is null"):
        read({**PAIR, "margin": 1}, {**PAIR, "margin": None}, margin="offset")


def test_a_file_of_bad_rows_alone_is_an_error_also_under_drop(read: Any) -> None:
    with pytest.raises(UserError, match=r"none of its 1 rows can be used: 1 no feedback \(first 1: .*give scores"):
        read(GRADED, on_bad_row="drop")


def test_identical_responses_load(read: Any) -> None:
    assert read({**TWO, "responses": ["4", "4"], "scores": [1, 1]}).data[0].responses == ("4", "4")


@pytest.mark.parametrize("row", [PAIR, {**TWO, "preferred": 0}, {**GRADED, "scores": [1, 2, 3]}])
def test_an_option_that_would_do_nothing_is_refused(read: Any, row: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"grade is set to 'truth'.*leave it out"):
        read(row, grade="truth")
    with pytest.raises(UserError, match="no row has a column 'margin'"):
        read(row, margin="gap")


def test_a_datum_knows_its_row(read: Any) -> None:
    loaded = read({**PAIR, "id": "x", "split": "train"}, {**PAIR, "id": "x"}, PAIR)
    first, second, third = loaded.data
    assert isinstance(first, Datum) and (first.id, first.split) == ("x", "train")
    assert first.source.endswith("prefs.jsonl:1")
    assert third.id == third.source and len({first.id, second.id, third.id}) == 3
    assert "rows with the id of an earlier row: 1" in loaded.ledger.notes[0]
