"""A few hundred of the inputs of ``soak.fuzz``, the same on every run, under the same laws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from soak import fuzz, near

from mmpo.data import load
from mmpo.errors import UserError
from tiny import ROWS, rows_file


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no file would be looked for on the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def held(findings: fuzz.Findings, examples: int) -> Counter[str]:
    assert not findings.broken and findings.outcomes.total() == examples
    return findings.outcomes


def test_files(tmp_path: Path) -> None:
    findings = fuzz.run(near.sources, 120, fuzz.of_source(tmp_path), "files")
    outcomes = held(findings, 120)
    assert min(outcomes[kind] for kind in ("refused", "loaded with rows dropped")) > 10
    rows = findings.rows
    assert rows["in"] == rows["used"] + rows["dropped"] > 100 and rows["used"] > 30


def test_recipes(tmp_path: Path) -> None:
    outcomes = held(fuzz.run(near.yaml_texts(), 120, lambda text, _: fuzz.reads(text, tmp_path), "recipes"), 120)
    assert outcomes["read"] > 10 and outcomes["refused"] > 50


def test_flags(tmp_path: Path) -> None:
    assert held(fuzz.run(near.flags(), 40, fuzz.of_flags(tmp_path), "flags"), 40) == {"refused": 40}


def test_inspect(tmp_path: Path) -> None:
    outcomes = held(fuzz.run(near.files(), 8, fuzz.of_inspect(tmp_path), "inspect"), 8)
    assert outcomes["refused"] and outcomes["done"]


# ---------------------------------------------------------------------------------------------- the laws can fail


def judged(work: Callable[[], Any]) -> str:
    findings = fuzz.Findings()
    findings.judge(work, "example")
    return "".join(findings.broken)


def test_what_is_no_answer_is_found() -> None:
    def says_nothing() -> None:
        raise UserError("")

    def hangs() -> None:
        while True:
            pass

    assert "no line" in judged(lambda: fuzz.answered(says_nothing))
    assert judged(lambda: fuzz.answered(lambda: {}["x"])).startswith("KeyError at test_fuzz.py")
    with pytest.raises(fuzz.Broken, match=r"no answer within 0\.05 s"), fuzz.in_time(0.05):
        hangs()


def test_a_row_that_is_lost_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(rows_file(tmp_path, [*ROWS, {"prompt": "x"}]))

    def losing(source: Any, on_bad_row: str = "error") -> Any:
        found = load(source, on_bad_row=on_bad_row)
        found.ledger.rows_used -= 1
        return found

    monkeypatch.setattr(fuzz, "load", losing)
    assert "rows in 7, used 5, dropped 1" in judged(lambda: fuzz.loads(path))


def test_a_good_row_that_is_dropped_is_found(tmp_path: Path) -> None:
    path = Path(rows_file(tmp_path, [*ROWS, {"prompt": "x"}]))
    found = load(str(path), on_bad_row="drop")
    found.data.pop()
    assert "are not what was loaded" in judged(lambda: fuzz.drops_only_bad_rows(path, found))
