"""Kinds of files, splits, mixing, and the ledger's law: rows in = rows used + rows dropped."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmpo.data import Ledger, Source, load
from mmpo.errors import UserError

ROWS = [{"prompt": f"question {n}", "chosen": "yes", "rejected": "no", "p_chosen": n / 10} for n in range(10)]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# ---------------------------------------------------------------------------------------------- sources


def test_a_source_is_parsed_from_a_path_or_a_mapping() -> None:
    assert Source.parse("a.jsonl") == Source("a.jsonl")
    assert Source.parse({"path": "a.jsonl", "split": "train", "weight": 2}) == Source("a.jsonl", "train", 2)
    source = Source("a.jsonl")
    assert Source.parse(source) is source


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"path": "a", "splitt": "x"}, "unknown key 'splitt'. Did you mean 'split'"),
        ({"split": "x"}, "needs a path"),
        (3, "no source"),
        ({"path": 3}, "path is 3; give text"),
        ({"path": "a", "weight": 0}, "weight is 0"),
        ({"path": "a", "weight": "2"}, "weight is '2'; give a number"),
        ({"path": "a", "weight": True}, "weight is True; give a number"),
        ({"path": "a", "limit": 0}, "limit is 0"),
        ({"path": "a", "limit": 1.5}, "limit is 1.5; give a whole number"),
        ({"path": "a", "margin": "ofset"}, "Did you mean 'offset'"),
    ],
)
def test_a_wrong_source_is_an_error(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Source.parse(value)


# ---------------------------------------------------------------------------------------------- kinds of files


@pytest.fixture(params=[".jsonl", ".jsonl.gz", ".json", "wrapped.json", ".csv", ".parquet", "folder", "splits"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """The same rows in every kind of file that can be read."""
    kind = request.param
    path = tmp_path / f"rows{kind}"
    match kind:
        case ".jsonl":
            path.write_text(lines(ROWS))
        case ".jsonl.gz":
            path.write_bytes(gzip.compress(lines(ROWS).encode()))
        case ".json":
            path.write_text(json.dumps(ROWS))
        case "wrapped.json":
            path.write_text(json.dumps({"data": ROWS}))
        case ".csv":
            Dataset.from_list(ROWS).to_csv(path)
        case ".parquet":
            Dataset.from_list(ROWS).to_parquet(path)
        case "folder":
            Dataset.from_list(ROWS).save_to_disk(path)
        case "splits":
            DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])}).save_to_disk(path)
            return Source(str(path), split="train")
    return Source(str(path))


def test_every_kind_of_file_gives_the_same_data(written: Source) -> None:
    loaded = load(written)
    assert [(d.prompt, d.responses) for d in loaded.data] == [(row["prompt"], ("yes", "no")) for row in ROWS]
    assert [d.judgements[0].p for d in loaded.data] == [row["p_chosen"] for row in ROWS]
    assert loaded.data[2].source == f"{written.path}:3"
    assert loaded.ledger.rows_in == loaded.ledger.rows_used == loaded.ledger.data == 10


def test_lists_in_a_csv_are_json_and_na_is_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,responses,scores\nsodium?,"[""NA"", ""Na""]","[0, 1.5]"\n')
    (d,) = load(str(path)).data
    assert d.responses == ("NA", "Na") and d.grades == (0, 1.5)
    path.write_text("prompt,chosen,rejected\nsodium?,Na,NA\nsodium?,Na,\n")
    with pytest.raises(UserError, match=r"rows\.csv:2: rejected is null"):
        load(str(path))


def test_a_column_of_a_csv_is_of_one_kind_however_late_that_shows(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("mmpo.data.read._MOST", 2)
    path = tmp_path / "rows.csv"
    table = ["prompt,chosen,rejected,score_chosen,score_rejected", *["What?,yes,no,2,1"] * 2, "What?,4.50,007,2.5,1"]
    path.write_text("\n".join(table) + "\n")
    *_, last = load(str(path)).data
    assert last.responses == ("4.50", "007"), "a text stays as it stands, also among rows that hold numbers alone"
    assert last.grades == (2.5, 1)


def test_empty_lines_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(ROWS[:1]) + "\n\n" + "{broken\n" + "[1, 2]\n" + lines(ROWS[1:2]))
    with pytest.raises(UserError, match=r"rows\.jsonl:4: the line is not JSON .*column 2.*on_bad_row: drop"):
        load(str(path))
    ledger = load(str(path), on_bad_row="drop").ledger
    assert (ledger.rows_in, ledger.rows_used) == (4, 2)
    assert {reason: d.rows[0][-1] for reason, d in ledger.dropped.items()} == {"broken JSON": "4", "wrong type": "5"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "no such file"),
        ("absent/folder/x", None, "no such file or folder"),
        ("rows.txt", b"x", "unknown kind of file"),
        ("rows.json", b"{", r"not a JSON file .*\.jsonl"),
        ("rows.json", b'{"a": 1}', "no list of rows"),
        ("rows.jsonl", b"", "holds no rows"),
        ("rows.jsonl", b"\xff\xfe", r"rows.jsonl:1: byte 1 of the line is not UTF-8"),
        ("rows.jsonl.gz", b"plain", "broken after line 0 .*download it again"),
        ("rows.parquet", b"x", "cannot be read as parquet"),
        ("rows.csv", b"", "cannot be read as csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load(str(path))
    assert name.split("/")[0] in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_holds_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="save_to_disk"):
        load(str(tmp_path))


def test_a_folder_of_several_splits_needs_one(tmp_path: Path) -> None:
    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "both")
    for split in (None, "dev"):
        with pytest.raises(UserError, match="it has train, test; say which split"):
            load(Source(str(tmp_path / "both"), split=split))


def test_a_hub_id_is_loaded_with_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, split: str | None) -> Any:
        asked.append((path, split))
        if path == "who/absent":
            raise FileNotFoundError("Dataset 'who/absent' doesn't exist on the Hub\nsecond line")
        both = DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])})
        return both if split is None else both[split]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    loaded = load(Source("who/prefs", split="test"))
    assert [d.source for d in loaded.data] == ["who/prefs:1"] and asked == [("who/prefs", "test")]
    with pytest.raises(UserError, match="it has train, test; say which split"):
        load("who/prefs")
    with pytest.raises(UserError, match=r"who/absent: neither a file here .*doesn't exist") as caught:
        load("who/absent")
    assert "\n" not in str(caught.value)


def test_conversations_survive_parquet(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    row = {"chosen": messages, "rejected": [messages[0], {"role": "assistant", "content": "5"}]}
    completions = [{"response": r, "overall_score": s, "fine-grained_score": s} for r, s in (("4", 8.0), ("5", 1.0))]
    for name, content in (("pairs", row), ("raw", {"instruction": "2 + 2?", "completions": completions})):
        Dataset.from_list([content]).to_parquet(tmp_path / f"{name}.parquet")
    (pair,) = load(str(tmp_path / "pairs.parquet")).data
    assert pair.prompt == messages[:1] and pair.responses == (messages[1:], row["rejected"][1:])
    (raw,) = load(str(tmp_path / "raw.parquet")).data
    assert raw.responses == ("4", "5") and raw.grades == (8, 1)


# ---------------------------------------------------------------------------------------------- splits, limits, mixing


@pytest.fixture
def path(tmp_path: Path) -> str:
    rows = [{**row, "split": "test" if n % 5 == 0 else "train"} for n, row in enumerate(ROWS)]
    (tmp_path / "rows.jsonl").write_text(lines(rows))
    return str(tmp_path / "rows.jsonl")


def test_the_rows_of_a_split(path: str) -> None:
    loaded = load(Source(path, split="test"))
    assert [d.prompt for d in loaded.data] == ["question 0", "question 5"]
    assert loaded.ledger.dropped["other split"].count == 8
    with pytest.raises(UserError, match=r"none of its 10 rows can be used: 10 other split \(first 1\)"):
        load(Source(path, split="dev"))


def test_a_split_of_rows_that_have_none(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(lines(ROWS))
    with pytest.raises(UserError, match="rows have no column 'split'"):
        load(Source(str(tmp_path / "rows.jsonl"), split="train"))


def test_a_limit_is_told(path: str) -> None:
    ledger = load(Source(path, limit=3)).ledger
    assert ledger.rows_in == ledger.rows_used == 3
    assert ledger.notes == ["limit 3: the rows from 4 on were not read"]
    assert load(Source(path, limit=10)).ledger.notes == []


@pytest.mark.parametrize(("weight", "data", "repeated", "left_out"), [(0.3, 3, 0, 7), (1, 10, 0, 0), (2.5, 25, 15, 0)])
def test_mixing_by_weight(path: str, weight: float, data: int, repeated: int, left_out: int) -> None:
    loaded = load(Source(path, weight=weight))
    assert len(loaded.data) == loaded.ledger.data == data
    assert len({d.id for d in loaded.data}) == data
    assert loaded.ledger.repeated == repeated and loaded.ledger.rows_dropped == left_out
    assert loaded.data == load(Source(path, weight=weight)).data
    if weight % 1:
        assert loaded.data != load(Source(path, weight=weight), seed=7).data


def test_a_weight_that_draws_nothing_is_an_error(path: str) -> None:
    with pytest.raises(UserError, match="draws none"):
        load(Source(path, weight=0.01))


def test_several_sources_have_one_ledger_and_their_own(path: str) -> None:
    loaded = load([Source(path, split="train"), {"path": path, "weight": 0.5}])
    ledger = loaded.ledger
    assert len(loaded.data) == ledger.data == 8 + 5
    assert ledger.rows_in == 20 and ledger.rows_used == 13
    assert [part.rows_in for part in ledger.parts] == [10, 10]
    json.dumps(ledger.as_dict())


def test_no_source_is_an_error() -> None:
    with pytest.raises(UserError, match="no source"):
        load([])


# ---------------------------------------------------------------------------------------------- the ledger


def test_unused_columns_that_sound_like_feedback_are_listed(tmp_path: Path) -> None:
    row = {**ROWS[0], "score": 3, "models": ["a"], "rating_b": 1, "p_second": 0.1, "label": 1, "source": "web"}
    (tmp_path / "rows.jsonl").write_text(lines([row]))
    ledger = load(str(tmp_path / "rows.jsonl")).ledger
    assert ledger.unused_feedback == ["label", "p_second", "rating_b", "score"]
    assert ledger.columns_unused == {"label", "p_second", "rating_b", "score", "models", "source"}
    assert ledger.columns_used == {"prompt", "chosen", "rejected", "p_chosen"}


def test_the_list_of_dropped_rows_is_capped_and_the_count_is_not(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(lines([{**ROWS[0], "chosen": ""}] * 50 + ROWS))
    dropped = load(str(tmp_path / "rows.jsonl"), on_bad_row="drop").ledger.dropped["empty response"]
    assert dropped.count == 50 and len(dropped.rows) == 20


GATHERED = ("q", "r")
GOOD_OR_BAD = st.sampled_from(
    [
        ROWS[0],
        {**ROWS[1], "split": "train"},
        {"prompt": "p", "responses": ["a", "b"], "votes": [0, 1, -1]},
        {"prompt": "r", "response": "a", "score": 2},
        {"prompt": "r", "response": "c", "score": 2},
        {"prompt": "q", "response": "b", "score": 1},
        {**ROWS[0], "chosen": ""},
        {**ROWS[0], "p_chosen": None},
        {"prompt": "p", "responses": ["a"], "scores": [1]},
        {"prompt": "p", "responses": ["a", "b"], "preferred": None},
        {"text": "x"},
        ["no object"],
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(GOOD_OR_BAD), weight=st.sampled_from([0.6, 1.0, 2.0, 1.4]), limit=st.sampled_from([None, 3]))
def test_rows_in_are_rows_used_and_rows_dropped(
    tmp_path: Path, rows: list[Any], weight: float, limit: int | None
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines([*rows, ROWS[0], ROWS[1]]))
    loaded = load(Source(str(path), weight=weight, limit=limit), on_bad_row="drop")
    ledger = loaded.ledger
    assert ledger.rows_in == ledger.rows_used + sum(d.count for d in ledger.dropped.values())
    assert ledger.rows_in == len(rows) + 2 or limit is not None
    assert ledger.data == len(loaded.data) == len({d.id for d in loaded.data})
    used = {d.source: len(d.responses) if d.prompt in GATHERED else 1 for d in loaded.data}
    assert ledger.rows_used == sum(used.values())
    assert isinstance(ledger, Ledger) and json.dumps(ledger.as_dict())
