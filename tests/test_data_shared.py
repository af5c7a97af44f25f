"""Real preference data: every file loads with the counts that its README states."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from mmpo.data import Loaded, load, merge, pairs_of, provides
from mmpo.errors import UserError
from mmpo.types import Datum

FILES = {
    "alpaca_eval_gpt4turbo_pairs": (16_523, 16_523, {"votes", "annotators"}),
    "alpaca_eval_gpt4turbo_listwise": (612, 907_151, {"grades"}),
    "alpaca_eval_multi_annotator": (4_228, 4_228, {"votes", "annotators"}),
    "ukp_convincing_arguments": (16_927, 16_927, {"votes", "annotators"}),
    "mqm_generalmt2023_zhen_3raters": (377, 16_965, {"grades", "annotators"}),
    "mqm_generalmt2023_ende_3raters": (104, 4_680, {"grades", "annotators"}),
    "mqm_ted_zhen": (529, 55_545, {"grades"}),
    "mqm_ted_ende": (529, 48_139, {"grades"}),
    "pandalm_3annotators": (840, 840, {"votes", "annotators"}),
    "hh_helpful_base": (2_291, 2_291, {"votes"}),
    "hh_harmless_base": (2_291, 2_291, {"votes"}),
    "qa_feedback_pairwise4": (500, 3_000, {"grades", "votes"}),
    "squality_multi_attribute": (100, 300, {"grades", "annotators"}),
    "summeval_op_multi_attribute": (32, 2_496, {"grades", "annotators"}),
}

GRADED_ON = {
    "squality_multi_attribute": {"correctness": 36.6667, "selection": 20.0, "overall": 20.0},
    "summeval_op_multi_attribute": {
        "fluency": 4.3333,
        "coherence": 4.0,
        "relevance": 4.0,
        "faithfulness": 4.3333,
        "aspect_coverage": 3.6667,
        "sentiment_consistency": 3.0,
        "specificity": 3.0,
    },
}
"""The attributes of a file, and what the first response of its first row has of each."""

Files = dict[str, Loaded]


@pytest.fixture(scope="module")
def files(shared_data: Path) -> Files:
    """Every file, each read once."""
    return {name: load(str(shared_data / f"{name}.jsonl.gz")) for name in FILES}


def votes(data: list[Datum]) -> tuple[int, int, int]:
    """Votes for the first, for the second, and ties."""
    sides = Counter((j.p > 0.5) - (j.p < 0.5) for d in data for j in d.judgements if j.p is not None)
    return sides[1], sides[-1], sides[0]


def shares(data: list[Datum]) -> list[float]:
    return [fmean(j.p for j in d.judgements if j.p is not None) for d in data]


def gaps(data: list[Datum]) -> list[float]:
    return sorted(abs(d.grades[i] - d.grades[j]) for d in data for i, j in pairs_of(d))  # type: ignore[index,operator]


def percentiles(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered[min(int(q * len(ordered)), len(ordered) - 1)] for q in (0.05, 0.25, 0.5, 0.75, 0.95)]


@pytest.mark.parametrize("name", FILES)
def test_every_file_loads_with_its_counts(name: str, files: Files) -> None:
    rows, pairs, kinds = FILES[name]
    data, ledger = files[name].data, files[name].ledger
    assert ledger.rows_in == ledger.rows_used == len(data) == rows
    assert provides(data)["comparisons"] == pairs
    assert set(ledger.provides) == kinds and not ledger.dropped
    assert [note.split(":")[0] for note in ledger.notes] == ["graded attributes that are not read"] * (
        name in GRADED_ON
    )
    assert {d.split for d in data} <= {"train", "validation", "test"}
    assert len({d.id for d in data}) == rows


def test_no_feedback_is_overlooked(files: Files) -> None:
    """What a file says beyond the feedback that is read: the same number in another form, and votes of another site."""
    unused = {name: loaded.ledger.unused_feedback for name, loaded in files.items()}
    assert {name: columns for name, columns in unused.items() if columns} == {
        "alpaca_eval_gpt4turbo_pairs": ["preference"],
        "ukp_convincing_arguments": ["community_votes"],
    }


def test_the_votes_on_arguments(files: Files) -> None:
    rows = files["ukp_convincing_arguments"].data
    assert votes(rows) == (32_849, 32_491, 19_105)
    assert len({j.annotator for d in rows for j in d.judgements}) == 3_815
    assert Counter(len(d.judgements) for d in rows) == {5: 16_737, 4: 190}
    assert fmean(shares(rows)) == pytest.approx(0.502, abs=5e-4)
    assert percentiles(shares(rows)) == pytest.approx([0, 0.2, 0.5, 0.8, 1])
    assert fmean(len({j.p for j in d.judgements}) == 1 for d in rows) == pytest.approx(0.197, abs=5e-4)
    assert sum(len(set(d.responses)) == 1 for d in rows) == 15


def test_arguments_merge_into_debates(files: Files) -> None:
    rows = files["ukp_convincing_arguments"].data
    merged, counts = merge(rows)
    assert len(merged) == 32 and sum(len(d.responses) for d in merged) == 1_038
    assert counts["comparisons of identical responses dropped"] == 15
    assert provides(merged)["comparisons"] + counts["comparisons stated again"] + 15 == 16_927
    dropped = counts["votes between identical responses dropped"]
    assert sum(len(d.judgements) for d in merged) + dropped == 32_849 + 32_491 + 19_105


def test_the_votes_of_judges_and_people(files: Files) -> None:
    judges = files["alpaca_eval_multi_annotator"].data
    assert votes(judges) == (7_771, 1_274, 23)
    sides = [{(j.p > 0.5) - (j.p < 0.5) for j in d.judgements} for d in judges]  # type: ignore[operator]
    assert fmean(len(s) == 1 for s in sides) == pytest.approx(0.921, abs=5e-4)
    people = files["pandalm_3annotators"].data
    assert fmean(len({j.p for j in d.judgements}) == 1 for d in people) == pytest.approx(0.871, abs=5e-4)
    assert fmean(abs(2 * p - 1) for p in shares(people)) == pytest.approx(0.841, abs=5e-4)
    assert len(merge(people)[0]) == 149


def test_binary_preferences(files: Files) -> None:
    assert votes(files["hh_helpful_base"].data)[0] == 1_156
    assert votes(files["hh_harmless_base"].data)[0] == 1_094


def test_the_probabilities_of_a_judge(files: Files) -> None:
    rows = files["alpaca_eval_gpt4turbo_pairs"].data
    assert percentiles(shares(rows)) == pytest.approx([0.001, 0.881, 0.9994, 1, 1], abs=1e-3)
    assert sum(0.05 < p < 0.95 for p in shares(rows)) == 2_812
    assert sum(d.responses[0] == d.responses[1] for d in rows) == 61
    assert len(merge(rows)[0]) == 612


@pytest.mark.parametrize(
    ("name", "expected", "ties"),
    [
        ("mqm_generalmt2023_zhen_3raters", [0, 0.33, 1.67, 4, 10.2], 0.114),
        ("mqm_generalmt2023_ende_3raters", [0, 0.67, 2, 5, 14], 0.104),
        ("mqm_ted_zhen", [0, 0, 1, 5, 10], 0.40),
        ("mqm_ted_ende", [0, 0, 1, 4, 6], 0.48),
        ("squality_multi_attribute", [3.7, 21, 59.7, 76.3, 91.3], 0.003),
        ("summeval_op_multi_attribute", [0.05, 0.29, 0.67, 1.43, 2.76], 0.02),
        ("qa_feedback_pairwise4", [0, 1, 1.5, 2, 3], 0.11),
    ],
)
def test_the_gaps_of_grades(name: str, expected: list[float], ties: float, files: Files) -> None:
    found = gaps(files[name].data)
    assert percentiles(found) == pytest.approx(expected, abs=0.06)
    assert fmean(g == 0 for g in found) == pytest.approx(ties, abs=0.006)


def test_what_is_no_preference_data_is_refused(shared_data: Path) -> None:
    with pytest.raises(UserError, match="no known row shape"):
        load(str(shared_data / "squality_documents.jsonl.gz"))


@pytest.mark.parametrize("name", GRADED_ON)
def test_all_attributes_of_a_file(name: str, shared_data: Path, files: Files) -> None:
    source = {"path": str(shared_data / f"{name}.jsonl.gz"), "attributes": "all"}
    loaded = load(source)
    assert loaded.ledger.provides["attributes"] == len(loaded.data) and not loaded.ledger.notes
    first = loaded.data[0].attributes
    assert {a: line[0] for a, line in first.items()} == GRADED_ON[name]
    assert [d.grades for d in loaded.data] == [d.grades for d in files[name].data]
    # What each annotator gave has the mean that the file states, to its rounding.
    means = load({**source, "ignore": ["attributes"]}).data
    for d, other in zip(loaded.data, means, strict=True):
        for a, line in d.attributes.items():
            assert other.attributes[a] == pytest.approx(line, abs=1e-4)
    # Any weighting of them is the grade.
    mixed = load({**source, "grade": dict.fromkeys(first, 0.5)}).data[0]
    assert mixed.grades is not None and mixed.grades[0] == pytest.approx(sum(GRADED_ON[name].values()) / 2)
