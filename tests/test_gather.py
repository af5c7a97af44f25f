"""Data prepared in pieces on disk are those that are prepared in memory, whatever the pieces."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from in_memory import gathered, random_rows
from mmpo.data import piecewise, read
from mmpo.data.source import Source
from mmpo.gather import Gathered, gather
from mmpo.methods import build
from mmpo.recipe import Shape

SHAPES = [
    Shape(),
    Shape(rescale="log1p", max_responses=3),
    Shape(rescale="zscore", spread=3, max_pairs=4),
    Shape(rescale="minmax", max_pairs=2),
]


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    opened = gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w")
    with opened as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


@pytest.fixture
def chunk(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_to(size: int) -> None:
        monkeypatch.setattr(read, "CHUNK", size)
        monkeypatch.setattr(piecewise, "CHUNK", size)

    return set_to


def same(found: Gathered, expected: Any) -> None:
    data, _, ledger, done = expected
    assert list(found.data) == data
    assert {k: v for k, v in found.record.items() if k != "shaping"} == ledger.as_dict()
    assert found.record["shaping"] == done
    assert found.account[: len(ledger.summary())] == ledger.summary()


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
@pytest.mark.parametrize(("size", "workers"), [(1, 1), (2_000, 2), (1 << 22, 1)])
def test_the_same_data_in_pieces(tmp_path: Path, chunk: Any, size: int, workers: int, shape: Shape) -> None:
    chunk(size)
    path, other = (written(tmp_path / name, random_rows(n, 150)) for n, name in enumerate(("a.jsonl", "b.jsonl.gz")))
    sources = [Source(path, weight=1.6, margin=None), Source(other, weight=0.7), Source(path, limit=40)]
    method = build("dpo")
    found = gather(sources, shape, 3, "drop", method=method, cache=tmp_path / "cache", workers=workers)
    expected = gathered(sources, shape, 3, "drop", method=method)
    same(found, expected)
    held_out = gather([other], shape, 3, "drop", like=found, cache=tmp_path / "cache", workers=workers)
    same(held_out, gathered([Source(other)], Shape(rescale=shape.rescale), 3, "drop", like=expected[1]))
