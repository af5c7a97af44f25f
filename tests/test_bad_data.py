"""Bad data through the real command line: each is an error with file and row, or a row that is dropped and counted."""

from __future__ import annotations

import copy
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpo.cli import main
from mmpo.data import load, texts
from mmpo.errors import AtMost, UserError
from tiny import ROWS, plain, rows_file, saved

GOOD = {"prompt": "Who?", "responses": ["The fox", "A plum"], "scores": [2, 1]}
DEEP = "[" * 5000 + "]" * 5000


def line(**changes: Any) -> bytes:
    """A right row with some of its values changed, as a line."""
    return json.dumps({**GOOD, **changes}).encode()


BAD: dict[str, tuple[bytes, str, str]] = {
    "cut in the middle": (line()[:30], "broken JSON", "the line is not JSON"),
    "raw NUL": (line(prompt="a@b").replace(b"@", b"\0"), "broken JSON", "Invalid control character"),
    "latin-1": (line(prompt="caf@").replace(b"@", b"\xe9"), "not UTF-8", "byte 16 of the line is not UTF-8"),
    "utf-16": (line().decode().encode("utf-16"), "not UTF-8", "byte 1 of the line is not UTF-8"),
    "no object": (b"[1, 2]", "wrong type", "the row is not an object"),
    "a number": (b"3", "wrong type", "the row is not an object"),
    "a key twice": (b'{"prompt": "a", ' + line()[1:], "a key twice", '"prompt" stands twice'),
    "nested": (line(responses="@").replace(b'"@"', DEEP.encode()), "nested too deeply", "nested too deeply"),
    "nested message": (
        line(prompt=[{"role": "user", "content": "a", "x": "@"}]).replace(b'"@"', (DEEP[4900:5100]).encode()),
        "nested too deeply",
        "write the row flat",
    ),
    "NaN": (line(scores=[float("nan"), 1]), "not a finite number", "scores[0] is NaN"),
    "infinity": (line(scores=[1, float("-inf")]), "not a finite number", "scores[1] is inf"),
    "1e400": (line(scores=["@", 1]).replace(b'"@"', b"1e400"), "not a finite number", "scores[0] is inf"),
    "500 digits": (line(scores=["@", 1]).replace(b'"@"', b"9" * 500), "not a finite number", "scores[0] is inf"),
    "5000 digits": (line(scores=["@", 1]).replace(b'"@"', b"9" * 5000), "not a finite number", "scores[0] is inf"),
    "grade as text": (line(scores=["2", 1]), "not a number", 'scores[0] is "2"'),
    "grade as truth": (line(scores=[True, 1]), "not a number", "scores[0] is true"),
    "grades as mapping": (line(scores={"a": 1}), "wrong type", "give a list"),
    "prompt as number": (line(prompt=3), "wrong type", "prompt is 3"),
    "prompt as null": (line(prompt=None), "wrong type", "prompt is null"),
    "response as list": (line(responses=[["a"], "b"]), "wrong type", "responses[0] is"),
    "response as null": (line(responses=[None, "b"]), "wrong type", "responses[0] is null"),
    "responses as text": (line(responses="ab"), "wrong type", "responses is"),
    "no response": (line(responses=[], scores=[]), "fewer than 2 responses", "responses has 0 entries; give at least"),
    "a blank response": (line(responses=["a", " \u2028 "]), "empty response", "responses[1] is empty"),
    "one response and no prompt": (
        b'{"responses": ["4"], "scores": [9], "about": [null]}',
        "no prompt",
        "one response shares nothing",
    ),
    "attributes as list": (
        json.dumps({"prompt": "a", "responses": ["b", "c"], "attributes": [1]}).encode(),
        "wrong type",
        "attributes is not a mapping",
    ),
    "weight below 0": (line(weight=-1), "negative weight", "weight is -1"),
    "weight as text": (line(weight="much"), "not a number", 'weight is "much"'),
}
"""A bad line, the reason under which it is counted, and words of the error that names it."""


@pytest.fixture(scope="module")
def model(tiny_reward: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tiny_reward(0), plain(tiny_tokenizer), tmp_path_factory.mktemp("reward"))


def run(capsys: Any, *words: str) -> tuple[int, str, str]:
    """Exit code, what was printed, and the one line of the error."""
    capsys.readouterr()
    code = 0
    try:
        main(words)
    except SystemExit as done:
        code = int(done.code or 0)
    said = capsys.readouterr()
    lines = [one for one in said.err.splitlines() if one.startswith("mmpo: ")]
    assert code in (0, 2) and len(lines) == (code == 2) and "Traceback" not in said.err
    return code, said.out, "".join(lines)


@pytest.fixture
def trained(model: str, tmp_path: Path, capsys: Any) -> Callable[..., tuple[int, str, str]]:
    """``mmpo train`` on data: a path or a source."""

    def of(data: Any, **changes: Any) -> tuple[int, str, str]:
        content = {"model": model, "data": data, "method": {"name": "mmpo_reward", "gamma": 0.5}, "max_steps": 1}
        content |= {"output_dir": str(tmp_path / "run"), "max_length": 64, "disable_tqdm": True, **changes}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
        return run(capsys, "train", str(tmp_path / "recipe.yaml"))

    return of


def written(folder: Path, content: bytes, name: str = "rows.jsonl") -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def good(n: int) -> list[bytes]:
    return [json.dumps(row).encode() for row in (ROWS * n)[:n]]


# ---------------------------------------------------------------------------------------------- bad lines


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_in_the_middle_is_named(name: str, trained: Any, tmp_path: Path, capsys: Any, model: str) -> None:
    bad, _, words = BAD[name]
    path = written(tmp_path, b"\n".join([*good(2), bad, *good(2)]))
    answers = [trained(path), run(capsys, "score", model, path, "--out", str(tmp_path / "scored.jsonl"))]
    for code, _, said in answers:
        assert code == 2 and f"{path}:3: " in said and words in said and "(on_bad_row: drop)" in said
    assert not (tmp_path / "run").exists() and not (tmp_path / "scored.jsonl").exists()


def test_all_bad_lines_are_dropped_and_counted(trained: Any, tmp_path: Path, capsys: Any) -> None:
    lines = [one for bad, _, _ in BAD.values() for one in (*good(1), bad)]
    path = written(tmp_path, b"\n".join(one for one in lines if b"\n" not in one))
    reasons: dict[str, int] = {}
    for bad, reason, _ in BAD.values():
        reasons[reason] = reasons.get(reason, 0) + (b"\n" not in bad)
    code, out, _ = run(capsys, "inspect", path, "--out", str(tmp_path / "report"))
    report = json.loads((tmp_path / "report" / "report.json").read_text())["ledger"]
    assert code == 0 and {why: told["count"] for why, told in report["dropped"].items()} == reasons
    bad = sum(reasons.values())
    assert f"{bad + len(BAD)} rows in, {len(BAD)} used" in out
    code, out, _ = trained(path, on_bad_row="drop", max_bad_rows=bad)
    assert code == 0 and f"{bad} dropped" in out
    record = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert record["rows_in"] == record["rows_used"] + record["rows_dropped"] == bad + len(BAD)


def test_the_good_rows_alone_are_what_is_loaded(tmp_path: Path) -> None:
    lines = [one for bad, _, _ in BAD.values() for one in (*good(1), bad)]
    dropped = load(written(tmp_path, b"\n".join(lines)), on_bad_row="drop").data
    # An empty line is no row and has a number, so that the rows keep theirs.
    kept = [one if n % 2 == 0 else b"\n" * one.count(b"\n") for n, one in enumerate(lines)]
    assert dropped == load(written(tmp_path, b"\n".join(kept))).data


# ---------------------------------------------------------------------------------------------- what is no fault


def test_text_of_every_kind_is_text(tmp_path: Path, trained: Any) -> None:
    """Each loads as it stands: nothing is split, cut or normalised on the way."""
    kinds = (
        "a\u2028b\u2029c\x85d",
        "a\x00b",
        "\u05e9\u05dc\u05d5\u05dd \u202eabc\u202c",
        "e\u0301\u0323" * 9,
        "\ufeffa",
    )
    kinds = (*kinds, "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\x1b[31mred", "{{ 7 * 7 }}", "</script>")
    rows = [{**GOOD, "prompt": f"{n} {kind}", "responses": [kind, "b"]} for n, kind in enumerate(kinds)]
    lines = [json.dumps(row, ensure_ascii=n % 2 == 0).encode() for n, row in enumerate(rows)]
    path = written(tmp_path, b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n\r\n  \r\n")
    loaded = load(path)
    assert [(d.prompt, d.responses[0]) for d in loaded.data] == [(r["prompt"], r["responses"][0]) for r in rows]
    assert loaded.ledger.rows_in == loaded.ledger.rows_used == len(kinds)
    assert [d.source for d in loaded.data] == [f"{path}:{n}" for n in range(1, len(kinds) + 1)]
    assert trained(path, max_length=256)[0] == 0


def test_grades_at_the_edge_of_numbers(tmp_path: Path) -> None:
    rows = [{**GOOD, "scores": pair} for pair in ([-0.0, 0.0], [1e308, -1e308], [5e-324, 0], [2**70, 1])]
    found = load(rows_file(tmp_path, rows)).data
    assert [d.grades for d in found] == [(0.0, 0.0), (1e308, -1e308), (5e-324, 0.0), (float(2**70), 1.0)]


def test_half_of_a_surrogate_pair(tmp_path: Path, trained: Any, capsys: Any, model: str) -> None:
    path = rows_file(tmp_path, [*ROWS, {**GOOD, "responses": ["a\ud800", "b"]}])
    for code, _, said in (trained(path), run(capsys, "score", model, path, "--out", str(tmp_path / "s.jsonl"))):
        assert code == 2 and f'{path}:7: the response "a\\ud800" holds half of a surrogate pair' in said
    code, out, _ = trained(path, on_bad_row="drop")
    assert code == 0 and "1 prompts dropped: half of a surrogate pair" in out
    assert run(capsys, "inspect", path, "--out", str(tmp_path / "report"))[0] == 0
    json.loads((tmp_path / "report" / "report.json").read_text())


def test_ids_that_stand_twice(tmp_path: Path, trained: Any) -> None:
    path = rows_file(tmp_path, [{**row, "id": "../../x"} for row in ROWS])
    loaded = load(path)
    assert len({d.id for d in loaded.data}) == 6 and "rows with the id of an earlier row: 5" in loaded.ledger.notes[0]
    code, out, _ = trained(path)
    assert code == 0 and "rows with the id of an earlier row: 5" in out


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "holds no rows; give at least one"),
        ([{**GOOD, "scores": [1, 1]}] * 3, None),
        ([{**GOOD, "responses": ["a", "a"]}] * 3, "no prompt has two different responses that were compared"),
        ([{"prompt": f"p{n}", "response": "a", "score": n} for n in range(3)], "the only response to its prompt"),
        ([GOOD], None),
    ],
    ids=["no rows", "all ties", "all identical", "K = 1", "one row"],
)
def test_data_that_say_little(rows: Any, words: str | None, tmp_path: Path, trained: Any, capsys: Any) -> None:
    """They train, or are refused in words; and they can always be looked at, unless nothing is there."""
    path = rows_file(tmp_path, rows)
    code, _, said = trained(path)
    assert code == (0 if words is None else 2)
    assert words is None or words in said
    code, _, said = run(capsys, "inspect", path, "--out", str(tmp_path / "report"))
    assert code == 0 or "holds no rows" in said or "none of its 3 rows can be used" in said


# ---------------------------------------------------------------------------------------------- bad files


def _csv(separator: str, encoding: str = "utf-8") -> bytes:
    return f"prompt{separator}chosen{separator}rejected\ncaf\u00e9?{separator}a{separator}b\n".encode(encoding)


def _parquet() -> bytes:
    """A table whose texts are no UTF-8."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = pa.BufferOutputStream()
    texts = pa.array([b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"prompt": texts, "chosen": pa.array(["a"]), "rejected": pa.array(["b"])}), out)
    return bytes(out.getvalue())


PACKED = gzip.compress(b"\n".join(good(60)))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.jsonl.gz", PACKED[: len(PACKED) // 2], "broken after line"),
        ("rows.jsonl.gz", PACKED[:-4], "broken after line"),
        ("rows.jsonl.gz", PACKED[:40] + bytes([PACKED[40] ^ 255]) + PACKED[41:], "broken after line"),
        ("rows.jsonl.gz", b"\n".join(good(2)), "broken after line 0 (Not a gzipped file"),
        ("rows.json", b"[" + b", ".join(good(2)), "not a JSON file"),
        ("rows.json", b'[{"prompt": "a", ' + line()[1:] + b"]", '"prompt" stands twice'),
        ("rows.json", DEEP.encode(), "nested too deeply"),
        ("rows.parquet", b"PAR1" + b"\0" * 50 + b"PAR1", "cannot be read as parquet"),
        ("rows.parquet", _csv(","), "cannot be read as parquet"),
        ("rows.parquet", _parquet(), "Invalid UTF8 sequence"),
        ("rows.csv", b"\x00\xff\xfe" * 40, "cannot be read as csv"),
        ("rows.csv", _csv(",", "latin-1"), "cannot be read as csv"),
        ("rows.csv", _csv(";"), "written with commas"),
        ("rows.csv", _csv("\t"), "written with commas"),
        ("rows.csv", _csv(",") + b"a,b,c,d,e\n", "cannot be read as csv"),
        ("rows.csv", b"", "cannot be read as csv"),
        ("rows.jsonl", b"\n\n \n", "holds no rows"),
    ],
)
def test_a_file_that_is_broken_is_one_line(
    name: str, content: bytes, words: str, tmp_path: Path, trained: Any, capsys: Any
) -> None:
    path = written(tmp_path, content, name)
    for code, _, said in (
        trained(path),
        trained(path, on_bad_row="drop", max_bad_rows=0.9),
        run(capsys, "inspect", path, "--out", str(tmp_path / "report")),
    ):
        assert code == 2 and said.startswith(f"mmpo: {path}") and words in said


def test_a_folder_with_the_name_of_a_file(tmp_path: Path, trained: Any) -> None:
    (tmp_path / "x.jsonl").mkdir()
    code, _, said = trained(str(tmp_path / "x.jsonl"))
    assert code == 2 and f"{tmp_path / 'x.jsonl'}: no folder written by save_to_disk" in said


def test_shapes_may_be_mixed(tmp_path: Path) -> None:
    """In lines, and in a table, where each row has the columns of all the others, with null in them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = [
        GOOD,
        {"prompt": "a?", "chosen": "x", "rejected": "y"},
        {"history": "b?", "human_ref_A": "x", "human_ref_B": "y", "score_A": 2, "score_B": 1},
    ]
    expected = load(rows_file(tmp_path, rows)).data
    pq.write_table(
        pa.Table.from_pylist([{**dict.fromkeys(k for r in rows for k in r), **row} for row in rows]),
        tmp_path / "x.parquet",
    )
    found = load(str(tmp_path / "x.parquet"))
    assert [(d.prompt, d.responses, d.grades) for d in found.data] == [
        (d.prompt, d.responses, d.grades) for d in expected
    ]
    assert found.ledger.shapes == {"prompt and responses": 1, "preference pair": 1, "SHP": 1}


# ---------------------------------------------------------------------------------------------- the ceiling


@pytest.mark.parametrize(
    ("bad", "of", "most", "fits"),
    [
        *((1, 7, None, True), (2, 7, None, False), (2, 40, None, True), (3, 30, 0.1, True), (4, 30, 0.1, False)),
        *((3, 9, 3, True), (4, 9, 3, False), (1, 9, 0, False), (8, 9, 0.9999, True)),
    ],
)
def test_the_ceiling_of_bad_rows(bad: int, of: int, most: float | None, fits: bool, tmp_path: Path) -> None:
    rows = [{**GOOD, "prompt": f"p{n}", "scores": [1 if n < bad else 2, None if n < bad else 1]} for n in range(of)]
    path = rows_file(tmp_path, rows)
    rule = AtMost() if most is None else AtMost(most)
    if fits:
        assert load(path, on_bad_row=rule).ledger.rows_bad == bad
        return
    with pytest.raises(UserError) as refused:
        load(path, on_bad_row=rule)
    for word in (f"{bad} of {of} rows are bad", f"{bad} null number ({path}:1", "scores[1] is null", "max_bad_rows"):
        assert word in str(refused.value)


def test_the_ceiling_is_one_over_all_sources(tmp_path: Path) -> None:
    bad = rows_file(tmp_path, [GOOD, {**GOOD, "scores": [1]}], "bad.jsonl")
    whole = rows_file(tmp_path, [{**GOOD, "prompt": str(n)} for n in range(18)], "good.jsonl")
    assert load([bad, whole], on_bad_row=AtMost(0.05)).ledger.rows_bad == 1
    with pytest.raises(UserError, match=r"2 of 22 rows are bad, and max_bad_rows 0.04 allows 1"):
        load([bad, bad, whole], on_bad_row=AtMost(0.04))


def test_rows_of_another_split_are_not_bad(tmp_path: Path) -> None:
    path = rows_file(tmp_path, [{**GOOD, "split": "train" if n == 3 else "test"} for n in range(9)])
    assert load({"path": path, "split": "train"}, on_bad_row=AtMost(0)).ledger.rows_dropped == 8


def test_the_ceiling_through_the_command_line(tmp_path: Path, trained: Any, capsys: Any, model: str) -> None:
    path = rows_file(tmp_path, [*ROWS, {**GOOD, "scores": [1]}, {**GOOD, "scores": [1]}])
    code, _, said = trained(path, on_bad_row="drop")
    assert code == 2 and "2 of 8 rows are bad, and max_bad_rows 0.05 allows 1: 2 lengths differ" in said
    code, _, said = trained(path, on_bad_row="drop", max_bad_rows=1.5)
    assert code == 2 and "max_bad_rows is 1.5; give a whole number of rows, or a share of them below 1" in said
    code, _, said = trained(path, max_bad_rows=3)
    assert code == 2 and "max_bad_rows would do nothing where on_bad_row is 'error'" in said
    assert trained(path, on_bad_row="drop", max_bad_rows=2)[0] == 0
    score = ("score", model, path, "--out", str(tmp_path / "s.jsonl"), "--on-bad-row", "drop")
    assert run(capsys, *score)[0] == 2 and run(capsys, *score, "--max-bad-rows", "0.3")[0] == 0
    assert run(capsys, "inspect", path, "--out", str(tmp_path / "report"))[0] == 0


def test_the_ceiling_holds_for_what_cannot_be_tokenised(tmp_path: Path, trained: Any) -> None:
    path = rows_file(tmp_path, [*ROWS, *({**GOOD, "prompt": f"long {n} " * 60} for n in range(2))])
    code, _, said = trained(path, on_bad_row="drop")
    assert code == 2 and "2 of 8 prompts are bad, and max_bad_rows 0.05 allows 1: no room for a response" in said
    assert trained(path, on_bad_row="drop", max_bad_rows=2)[0] == 0


# ---------------------------------------------------------------------------------------------- feedback nobody reads


def test_feedback_that_is_not_used_must_be_named(tmp_path: Path, trained: Any, capsys: Any, model: str) -> None:
    path = rows_file(tmp_path, [{**row, "upvote_ratio": 0.9, "user_rating": 3, "models": "a"} for row in ROWS])
    code, _, said = trained(path)
    assert code == 2 and f"{path}: not used, though it looks like feedback: upvote_ratio, user_rating" in said
    assert 'ignore: ["upvote_ratio", "user_rating"]' in said
    code, out, _ = trained({"path": path, "ignore": ["upvote_ratio", "user_rating"]})
    record = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert code == 0 and record["columns_left"] == {"upvote_ratio": 6, "user_rating": 6}
    code, out, _ = run(capsys, "score", model, path, "--out", str(tmp_path / "s.jsonl"))
    assert code == 0 and "not used, though it looks like feedback: upvote_ratio, user_rating" in out


@pytest.mark.parametrize(
    ("ignore", "words"),
    [
        (["user_ratings"], "ignore names 'user_ratings', which no row has. Did you mean 'user_rating'?"),
        (["user_rating", "scores"], "ignore names 'scores', which is read"),
        ("user_rating", "ignore is 'user_rating'; give a list of columns"),
        ([3], "ignore is [3]; give a list of columns"),
    ],
)
def test_what_cannot_be_ignored(ignore: Any, words: str, tmp_path: Path, trained: Any) -> None:
    path = rows_file(tmp_path, [{**row, "user_rating": 3} for row in ROWS])
    code, _, said = trained({"path": path, "ignore": ignore})
    assert code == 2 and words in said


HUB: list[dict[str, Any]] = [
    {
        "history": "a?",
        "human_ref_A": "x",
        "human_ref_B": "y",
        "labels": 1,
        "score_A": 5,
        "score_B": 3,
        "score_ratio": 1.7,
    }
    | {
        "post_id": "p",
        "domain": "d",
        "upvote_ratio": 0.9,
        "c_root_id_A": "c",
        "created_at_utc_A": 1,
        "seconds_difference": 2,
    },
    {
        "prompt": "a?",
        "response_1": "x",
        "response_2": "y",
        "preference_strength": 1,
        "preference_statement": "y is better",
    }
    | {"preference_elaboration": "since", "three_most_similar_preferences": [], "all_preferences_unprocessed": []},
    {"domain": "d", "language": "l", "context": [{"role": "user", "content": "a?"}], "response1": "x", "response2": "y"}
    | {"overall_preference": -2, "individual_preference": [{"score": -2, "reasoning": "r", "feedback1": "f"}]},
    {"source": "s", "instruction": "a?", "models": ["m"], "correct_answers": [], "incorrect_answers": []}
    | {"completions": [{"response": c, "overall_score": n, "annotations": {}} for n, c in enumerate("xy")]},
    {
        "prompt": "a?",
        "prompt_id": "i",
        "chosen": "x",
        "rejected": "y",
        "messages": [],
        "score_chosen": 8.5,
        "score_rejected": 7,
    },
    {
        "chosen": ["a?", "x"],
        "rejected": ["a?", "y"],
        "GPT4 label": 1,
        "chosen score list": [2],
        "rejected score list": [1],
    }
    | {"mean preference difference": 1.0, "std preference difference": 0.1},
    {"prompt": "a?", "answers": [{"answer": "x", "rank": 1, "model": "m"}, {"answer": "y", "rank": 2}], "turns": 1}
    | {"num_responses": 2, "source": ["s"], "good_natured": True},
]
"""Rows with all the columns that they have on the hub."""


@pytest.mark.parametrize(
    "row", HUB, ids=["SHP", "HelpSteer2", "HelpSteer3", "UltraFeedback", "binarized", "HH", "Nectar"]
)
def test_rows_of_the_hub_need_no_names(row: dict[str, Any], tmp_path: Path) -> None:
    ledger = load(rows_file(tmp_path, [row])).ledger
    assert not ledger.unused_feedback
    ledger.check_feedback()


def test_another_attribute_of_helpsteer_needs_no_name(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a?", "response": c, "helpfulness": 1, "correctness": n, "verbosity": 2} for n, c in enumerate("xy")
    ]
    ledger = load({"path": rows_file(tmp_path, rows), "grade": "correctness"}).ledger
    assert ledger.columns_left == {"helpfulness": 2} and not ledger.unused_feedback


# ---------------------------------------------------------------------------------------------- templates and tokens

TEMPLATE = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
OPEN = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
TEMPLATES = {
    "raises": ("{{ raise_exception('no') }}", "the chat template refuses the conversation (no)"),
    "fails": ("{{ 'a' + 3 }}", "the chat template refuses the conversation (can only concatenate"),
    "reaches out": ("{{ ''.__class__.__mro__ }}", "the chat template"),
    "no template": ("{% for", "the chat template refuses the conversation"),
    "says nothing": ("{{ '' }}", "the chat template leaves words of the prompt out"),
    "drops the prompt": ("{{ messages[-1].content }}", "the chat template"),
    "drops the response": (
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{{ eos_token }}{% endfor %}",
        "the chat template leaves words of the response",
    ),
    "cuts the response": (
        "{% for m in messages %}{{ m.content if m.role == 'user' else m.content[:2] }}{{ eos_token }}{% endfor %}",
        "the chat template leaves words of the response",
    ),
    "counts the turns": (
        "{{ messages | length }} turns: " + TEMPLATE + OPEN,
        "the chat template writes the prompt otherwise where the response",
    ),
    "begins twice": ("{{ bos_token }}" + TEMPLATE + OPEN, "the prompt begins with <s> twice"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_that_fails(
    name: str, tiny_reward: Any, tiny_tokenizer: Any, tmp_path: Path, trained: Any, capsys: Any
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template, words = TEMPLATES[name]
    folder = saved(tiny_reward(0), tokenizer, tmp_path / "model")
    path = rows_file(tmp_path)
    score = run(capsys, "score", folder, path, "--out", str(tmp_path / "s.jsonl"))
    for code, _, said in (trained(path, model=folder), score):
        assert code == 2 and f"{path}:1: " in said and words in said
    code, _, said = trained(path, model=folder, on_bad_row="drop")
    assert code == 2 and "6 of 6 prompts are bad" in said


def test_a_template_may_trim_and_think(tiny_tokenizer: Any) -> None:
    """White space and an opening that an answer does not have are no loss."""
    from mmpo.batch import Limits, encode_all

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>\n\n</think>{% endif %}"
    )
    from tiny import data_of

    kept, _ = encode_all(data_of(), tokenizer, Limits(256))
    assert len(kept) == len(ROWS)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**GOOD, "prompt": "<s>Who?"}, "the prompt begins with <s> twice"),
        ({**GOOD, "prompt": " <s></s> "}, "the prompt is nothing but special tokens"),
        ({**GOOD, "responses": ["</s>", "b"]}, 'the response "</s>" is nothing but special tokens'),
    ],
)
def test_special_tokens_in_the_text(row: dict[str, Any], words: str, tmp_path: Path, trained: Any) -> None:
    path = rows_file(tmp_path, [*ROWS, row])
    code, _, said = trained(path)
    assert code == 2 and f"{path}:7: {words}" in said
    code, out, _ = trained(path, on_bad_row="drop")
    assert code == 0 and "1 prompts dropped" in out


def test_a_policy_without_an_end(tiny_policy: Any, tiny_tokenizer: Any, tmp_path: Path, trained: Any) -> None:
    tokenizer = plain(tiny_tokenizer)
    tokenizer.eos_token = None
    folder = saved(tiny_policy(0), tokenizer, tmp_path / "model")
    code, _, said = trained(rows_file(tmp_path), model=folder, method="dpo")
    assert code == 2 and "neither an end-of-text token nor a chat template" in said and "eos_token" in said


def test_a_tokenizer_that_is_none(
    model: str, tiny_reward: Any, tiny_tokenizer: Any, tmp_path: Path, trained: Any
) -> None:
    folder = saved(tiny_reward(0), plain(tiny_tokenizer), tmp_path / "model")
    for content in ('{"model": {"type": "BPE"}}', "{}", "\x00", '{"version": "9.9", "model": []}'):
        (Path(folder) / "tokenizer.json").write_text(content)
        code, _, said = trained(rows_file(tmp_path), model=folder)
        assert code == 2 and f"{folder}" in said and "mmpo: model: " in said


# ---------------------------------------------------------------------------------------------- size


def test_what_two_long_dialogues_share_takes_linear_time() -> None:
    a = "Human: " + "word and more " * 700_000
    began = time.perf_counter()
    assert texts.common_string(a + "x", a + "y") == len(a) - 1
    assert time.perf_counter() - began < 3


@pytest.mark.slow
def test_a_row_of_20_mb_is_named_or_counted(tmp_path: Path, trained: Any, capsys: Any) -> None:
    """It is not tokenised: that alone would take gigabytes."""
    long = "a word, and another one. " * 800_000
    rows = [*ROWS, {**GOOD, "prompt": long}, {**GOOD, "prompt": "b?", "responses": [long, "short"]}]
    rows.append({"chosen": f"{long}yes", "rejected": f"{long}no"})
    path = rows_file(tmp_path, rows)
    began = time.process_time()
    code, _, said = trained(path, max_prompt_length=32)
    assert code == 2 and f"{path}:7: the prompt has 20,000,000 characters" in said and len(said) < 1000
    code, out, _ = trained(path, max_prompt_length=32, on_bad_row="drop", max_bad_rows=3)
    assert code == 0 and "3 prompts dropped: far too long" in out
    assert run(capsys, "inspect", path, "--out", str(tmp_path / "report"))[0] == 0
    assert time.process_time() - began < 60


def test_what_is_long_but_can_be_read_is_cut_with_a_count(tmp_path: Path, trained: Any) -> None:
    long = "a word, and another one. " * 2_000
    rows = [*ROWS, {**GOOD, "prompt": long}, {**GOOD, "prompt": "b?", "responses": [long, "short"]}]
    code, out, _ = trained(rows_file(tmp_path, rows), max_prompt_length=32)
    assert code == 0 and "1 of 8 prompts lost their beginning, 1 of 20 responses their end" in out
