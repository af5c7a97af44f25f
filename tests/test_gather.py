"""Data prepared in pieces on disk are those that are prepared in memory, whatever the pieces."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from in_memory import gathered, random_rows
from mmpo.data import collect, fit_gamma, load, merge, piecewise, read
from mmpo.data.source import Source
from mmpo.data.stored import StoredData
from mmpo.errors import AtMost, UserError
from mmpo.methods import build
from mmpo.recipe import Shape
from mmpo.run import gather as gathering
from mmpo.run.gather import Gathered, gather
from mmpo.run.record import fingerprint

SHAPES = [
    Shape(),
    Shape(rescale="log1p", max_responses=3),
    Shape(rescale="zscore", spread=3, max_pairs=4),
    Shape(rescale="minmax", max_pairs=2),
]
PIECES = [(1, 1), (2_000, 2), (1 << 22, 1)]
"""Bytes of a piece, and workers: a row a piece, several pieces in two processes, all in one."""


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return str(path)


def graded(n: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"prompt {i}", "responses": [f"{i} {k}" for k in "abcd"], "scores": [k * i % 7 for k in range(4)]}
        for i in range(n)
    ]


@pytest.fixture
def chunk(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_to(size: int) -> None:
        monkeypatch.setattr(read, "CHUNK", size)
        monkeypatch.setattr(piecewise, "CHUNK", size)

    return set_to


def same(found: Gathered, expected: Any) -> None:
    """Datum by datum and count by count, in the same order."""
    data, _, ledger, done = expected
    assert list(found.data) == data
    assert {k: v for k, v in found.record.items() if k != "shaping"} == ledger.as_dict()
    assert found.record["shaping"] == done
    assert found.account[: len(ledger.summary())] == ledger.summary()
    assert ledger.rows_in == ledger.rows_used + ledger.rows_dropped


@pytest.mark.parametrize(("size", "workers"), PIECES)
@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_the_same_data_in_pieces(tmp_path: Path, chunk: Any, size: int, workers: int, shape: Shape) -> None:
    chunk(size)
    path, other = (written(tmp_path / name, random_rows(n, 80)) for n, name in enumerate(("a.jsonl", "b.jsonl.gz")))
    sources = [Source(path, weight=1.6), Source(other, weight=0.7), Source(path, limit=30)]
    method = build("dpo")
    found = gather(sources, shape, 3, "drop", method=method, cache=tmp_path / "cache", workers=workers)
    expected = gathered(sources, shape, 3, "drop", method=method)
    same(found, expected)
    assert found.fingerprint == fingerprint(expected[0])
    held_out = gather([other], shape, 3, "drop", like=found, cache=tmp_path / "cache", workers=workers)
    same(held_out, gathered([Source(other)], Shape(rescale=shape.rescale), 3, "drop", like=expected[1]))


SMALL = ["pandalm_3annotators", "squality_multi_attribute"]
LARGE = [
    "summeval_op_multi_attribute",
    "qa_feedback_pairwise4",
    "hh_helpful_base",
    "mqm_ted_zhen",
    "alpaca_eval_gpt4turbo_pairs",
]


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_real_data_in_pieces(tmp_path: Path, shared_data: Path, chunk: Any, name: str) -> None:
    chunk(100_000)
    source = Source(str(shared_data / f"{name}.jsonl.gz"), ignore=("preference",) if "pairs" in name else ())
    shape = Shape(max_responses=8, max_pairs=20)
    same(gather([source], shape, 5, cache=tmp_path, workers=2), gathered([source], shape, 5))


def test_every_kind_of_file_in_pieces(tmp_path: Path, chunk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk(3_000)
    monkeypatch.setattr(read, "_MOST", 7)
    rows = graded(50)
    for row in rows[::5]:
        row["subset"] = None if row is rows[0] else "some"
    table = Dataset.from_list(rows)
    table.to_json(tmp_path / "a.jsonl")
    table.to_json(tmp_path / "a.json", lines=False)
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(str(tmp_path / "saved"))
    lists = {name: [json.dumps(row[name]) for row in rows] for name in ("responses", "scores")}
    Dataset.from_dict({"prompt": [row["prompt"] for row in rows], **lists}).to_csv(tmp_path / "a.csv")
    written(tmp_path / "a.jsonl.gz", rows)
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "saved", "a.csv"):
        source = Source(str(tmp_path / name))
        found = gather([source], Shape(), 3, cache=tmp_path / "cache", workers=2)
        same(found, gathered([source], Shape(), 3))
        assert len(found.data) == 50
        assert len(list(read.chunks(source))) > (name != "a.json")


@pytest.mark.parametrize("size", [1, 300, 1 << 22])
def test_what_is_loaded_into_memory_is_gathered_by_the_same_rules(tmp_path: Path, chunk: Any, size: int) -> None:
    chunk(size)
    path = written(tmp_path / "a.jsonl", random_rows(4, 60))
    source = Source(path, weight=1.5, limit=50)
    loaded, (_, _, ledger, _) = load(source, on_bad_row="drop", seed=3), gathered([source], Shape(), 3, "drop")
    assert loaded.ledger.as_dict() == ledger.as_dict() and len(loaded.data) == ledger.data
    assert merge(loaded.data)[0] == gathered([source], Shape(), 3, "drop")[1]


def test_what_is_known_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = written(tmp_path / "a.jsonl", random_rows(1, 60)), tmp_path / "cache"
    first = gather([path], Shape(rescale="minmax"), 3, "drop", cache=cache)
    assert "prepared data: kept in" in first.account[-1] and not list(cache.glob("*/work-*"))
    monkeypatch.setattr(gathering, "parse_source", None)
    monkeypatch.setattr(StoredData, "__getitem__", None)
    again = gather([path], Shape(rescale="minmax"), 3, "drop", cache=cache)
    assert again.record == first.record and again.account[:-1] == first.account[:-1]
    assert again.scale == first.scale and again.fingerprint == first.fingerprint and len(again.data) == len(first.data)
    assert isinstance(again.data, StoredData) and again.data.voices["annotators"] == ["ann", "bob"]
    assert "prepared data: known in" in again.account[-1]


def test_whatever_changes_the_data_prepares_them_anew(tmp_path: Path) -> None:
    path, cache = written(tmp_path / "a.jsonl", graded(20)), tmp_path / "cache"
    gather([path], Shape(), 3, cache=cache)
    gather([{"path": path, "limit": 7}], Shape(), 3, cache=cache)
    gather([path], Shape(max_pairs=2), 3, cache=cache)
    gather([path], Shape(), 4, cache=cache)
    gather([path], Shape(), 3, AtMost(2), cache=cache)
    gather([path], Shape(), 3, method=build("mmpo", gamma=1.0), cache=cache)
    gather([path], Shape(), 3, method=build("dpo"), cache=cache)  # reads what mmpo reads
    written(tmp_path / "a.jsonl", graded(21))
    assert len(gather([path], Shape(), 3, cache=cache).data) == 21
    assert len(list(cache.glob("data-*/account.json"))) == 7


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, parse_source = written(tmp_path / "a.jsonl", graded(20)), piecewise.parse_source

    def meanwhile(*args: Any) -> Any:
        found = parse_source(*args)
        written(tmp_path / "a.jsonl", graded(21))
        return found

    monkeypatch.setattr(gathering, "parse_source", meanwhile)
    with pytest.raises(UserError, match=r"a\.jsonl: changed while it was read"):
        gather([path], Shape(), 3, cache=tmp_path / "cache")
    assert not list(tmp_path.glob("cache/data-*/account.json"))


def test_the_first_bad_row_is_named_whichever_process_meets_it(tmp_path: Path, chunk: Any) -> None:
    chunk(200)
    rows: list[dict[str, Any]] = graded(60)
    rows[20], rows[40] = {"prompt": "x"}, {"prompt": "y"}
    path = written(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match=r"a\.jsonl:21: no known row shape"):
        gather([path], Shape(), 3, cache=tmp_path / "cache", workers=2)
    with pytest.raises(UserError, match=r"2 of .* rows are bad, and max_bad_rows 1 allows 1"):
        gather([path], Shape(), 3, AtMost(1), cache=tmp_path / "cache", workers=2)
    (found,) = {len(gather([path], Shape(), 3, AtMost(most), cache=tmp_path, workers=2).data) for most in (2, 0.04)}
    assert found == 58
    limited = gather([{"path": path, "limit": 20}], Shape(), 3, cache=tmp_path, workers=2)
    assert len(limited.data) == 20 and "limit 20: the rows from 21 on were not read" in limited.account


def test_equal_digests_decide_what_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts that share a digest only share a piece: what is merged is decided on the texts."""
    path = written(tmp_path / "a.jsonl", random_rows(6, 40))
    expected = gathered([Source(path)], Shape(max_pairs=3), 3, "drop")
    of = collect.Rows.of

    def alike(data: Any) -> collect.Rows:
        rows = of(data)
        return collect.Rows(rows.number, rows.group, rows.name, rows.prompt[[0] * len(rows)], rows.responses)

    monkeypatch.setattr(collect.Rows, "of", alike)
    same(gather([path], Shape(max_pairs=3), 3, "drop", cache=tmp_path / "cache", workers=1), expected)


def test_gamma_is_fitted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = [row | {"annotator_scores": [row["scores"], [(q + 3) % 7 for q in row["scores"]]]} for row in graded(10)]
    rows = [row | {"annotator_scores": [row["scores"]] * 2} for row in graded(90)[10:]] + noisy
    path = written(tmp_path / "a.jsonl", rows)
    data = gather([path], Shape(), 3, cache=tmp_path).data
    fit = fit_gamma(data)
    assert fit == fit_gamma(list(data)) and fit.kind == "raters"
    monkeypatch.setattr("mmpo.data.gamma._best", None)
    assert fit_gamma(data) == fit


def test_lists_of_data_stay_in_memory(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", random_rows(2, 60))
    shape = Shape(rescale="zscore", spread=3, max_pairs=4)
    data = load(path, on_bad_row="drop", seed=3).data
    given, stored = gather(data, shape, 3), gather([path], shape, 3, "drop", cache=tmp_path / "cache")
    assert isinstance(given.data, list) and given.data == list(stored.data)
    assert given.record["shaping"] == stored.record["shaping"] and given.scale == stored.scale
    assert given.fingerprint == stored.fingerprint
    assert gather((), Shape(), 3).data == []


KILLED = """
import sys
from mmpo.data import piecewise, read
from mmpo.run.gather import gather
from mmpo.recipe import Shape
from mmpo.run.record import fingerprint
read.CHUNK = piecewise.CHUNK = 20_000
print("going", flush=True)
print(gather([sys.argv[1]], Shape(rescale="zscore"), 3, cache=sys.argv[2], workers=2).fingerprint)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_a_killed_preparation_goes_on(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", graded(3_000))
    command = [sys.executable, "-c", KILLED, path]
    whole = subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True, text=True).stdout
    pieces = len(list(tmp_path.glob("whole/data-*/part-*.arrow")))
    for n in range(2):
        run = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True)
        assert run.stdout is not None and run.stdout.readline()
        before = len(list(tmp_path.glob("killed/**/*.json")))
        while run.poll() is None and len(list(tmp_path.glob("killed/**/*.json"))) < before + pieces // 2:
            time.sleep(0.01)
        run.kill()
        run.wait()
        assert n or list(tmp_path.glob("killed/**/part-*.json"))
    again = subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True, text=True).stdout
    assert again == whole
    assert len(os.listdir(tmp_path / "killed")) == 2 and not list(tmp_path.glob("killed/**/work-*"))
