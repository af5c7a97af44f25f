"""Preparing more prompts takes no more memory. The long version, a million of them, is ``python -m soak million``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from soak.crowd import K, make_model, rows, write_pairs, write_rows
from soak.memory import watch

from mmpo.data import load

PREPARE = """
import json, sys
from pathlib import Path

from mmpo.batch import Limits, prepare
from mmpo.run.gather import gather
from mmpo.models.load import load_tokenizer
from mmpo.recipe import Shape

def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("RssAnon", "VmHWM"))}

tokenizer, cache = load_tokenizer(sys.argv[1]), sys.argv[2]
for path in sys.argv[3:]:
    Path("/proc/self/clear_refs").write_text("5")
    before = own()["RssAnon"]
    examples, _ = prepare(gather(path, Shape(), 3, cache=cache, workers=1).data, tokenizer, Limits(256))
    examples.sizes
    print(json.dumps({"rows": len(examples), "before": before, **own()}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_prompts(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    paths = [str(write_rows(tmp_path / f"{n}.jsonl", n)) for n in (1_000, 7_000)]
    seen = subprocess.run(
        [sys.executable, "-c", PREPARE, tmp_path / "model", tmp_path / "cache", *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    few, many = map(json.loads, seen.stdout.splitlines())
    assert (few["rows"], many["rows"]) == (1_000, 7_000)
    # In lists of Datum and Example the 6,000 more take over 80 MiB.
    assert many["VmHWM"] - few["VmHWM"] < 40
    assert many["RssAnon"] - few["RssAnon"] < 20


def test_files_of_every_kind_hold_the_same_prompts(tmp_path: Path) -> None:
    made = list(rows(1_010))
    assert made == list(rows(2_000))[:1_010] and len({row["prompt"] for row in made}) == 1_010
    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet"):
        found = load(str(write_rows(tmp_path / name, 1_010))).data
        assert [(d.prompt, list(d.responses), list(d.grades or ())) for d in found] == [
            (row["prompt"], row["responses"], row["scores"]) for row in made
        ]
    pairs = [json.loads(line) for line in write_pairs(tmp_path / "p.jsonl", 5, 6).read_text().splitlines()]
    assert len(pairs) == 5 * K * (K - 1) // 2
    grades = {
        (row["prompt"], text): grade for row in made[:5] for text, grade in zip(*list(row.values())[1:], strict=True)
    }
    assert all(grades[p["prompt"], p["chosen"]] >= grades[p["prompt"], p["rejected"]] for p in pairs)


def test_a_watched_command(tmp_path: Path) -> None:
    held = (
        "import time; held = bytearray(80 << 20); held[::4096] = b'x' * len(held[::4096]); time.sleep(1.5); print('ok')"
    )
    seen = watch([sys.executable, "-c", held], tmp_path / "log")
    assert seen.code == 0 and seen.output == "ok\n" and len(seen.resident) == 1
    assert 80 < seen.own[0] <= seen.resident[0] < 200 and seen.together > 80
    stopped = watch([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", kill_after=0.5)
    assert stopped.code == -9 and stopped.seconds < 10
