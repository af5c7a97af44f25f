"""A million prompts of four graded responses: made ready in bounded memory, killed in the middle, known the next time,
and beside TRL on the same responses."""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import yaml

from soak.common import begun, write
from soak.crowd import K, make_model, write_pairs, write_rows
from soak.memory import Watched, watch

PROMPTS = 1_000_000
FEWER = 50_000
"""For other kinds of files, and for kills."""

BESIDE_TRL = 10_000
PARTS = ("whole", "beside_trl", "files", "kills", "reference")
SIDES = {
    "mmpo, a prompt with 4 responses": (1, K),
    "mmpo, 1 pair a prompt": (1, 2),
    "TRL, 1 pair a prompt": (1, 2),
    "TRL, 6 pairs a prompt": (6, 12),
}
"""Rows and responses of a prompt."""

REPEATS = 3
MOST_MIB = 2048
SECOND_START = 15.0
"""Seconds from the start of a process to the end of its first step, data known."""

QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class World:
    """A folder with a tiny model, and as many processes as prepare."""

    folder: Path
    workers: int

    def recipe(self, data: Path, cache: Path, **more: Any) -> Path:
        name = f"{data.name}-{cache.name}-{'-'.join(more)}"
        content = {
            "model": str(self.folder / "model"),
            "method": {"name": "mmpo", "gamma": 0.3, "beta": 0.1},
            "data": str(data),
            "data_cache": str(cache),
            "data_workers": self.workers,
            "output_dir": str(self.folder / f"run-{name}"),
            "max_length": 256,
            "per_device_train_batch_size": 4,
            "max_steps": 1,
            **more,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def doctor(self, recipe: Path, kill_after: float | None = None) -> Watched:
        """``mmpo doctor``: data ready for training, and the self-tests."""
        command = [sys.executable, "-m", "mmpo", "doctor", str(recipe)]
        return done(watch(command, recipe.with_suffix(".log"), QUIET, kill_after), kill_after)

    def first_step(self, recipe: Path) -> float:
        """Seconds from the start of ``mmpo train`` to the end of its first step."""
        witness = recipe.with_suffix(".steps")
        for old in (witness, Path(yaml.safe_load(recipe.read_text())["output_dir"])):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        command = [sys.executable, "-m", "soak.victim", str(recipe), str(witness)]
        seen = done(watch(command, recipe.with_suffix(".log"), QUIET))
        return witness.stat().st_mtime - seen.began


def done(seen: Watched, killed: float | None = None) -> Watched:
    if seen.code and killed is None:
        raise RuntimeError(f"the command ended with {seen.code}: {seen.output[-2000:]}")
    return seen


def measure(
    folder: Path, prompts: int, fewer: int, beside: int, repeats: int, workers: int, known: Collection[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything that is promised of large data, with so many prompts, part by part; the folder is filled."""
    world = World(folder, workers)
    make_model(folder / "model")
    startup = world.doctor(world.recipe(write_rows(folder / "few.jsonl", 8), folder / "few")).seconds
    kinds = ("jsonl.gz", "parquet")
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "whole": lambda: _whole(world, write_rows(folder / "all.jsonl", prompts), prompts, startup, repeats),
        "beside_trl": lambda: _beside_trl(world, beside, repeats),
        "files": lambda: {kind: _of_kind(world, folder / f"some.{kind}", fewer, startup) for kind in kinds},
        "kills": lambda: _kills(world, write_rows(folder / "some.jsonl", fewer), startup),
        "reference": lambda: _reference(world, write_rows(folder / "read.jsonl", beside // 5), beside // 5),
    }
    for name, part in parts.items():
        if name not in known:
            yield name, part()


def _whole(world: World, path: Path, prompts: int, startup: float, repeats: int) -> dict[str, Any]:
    """All prompts made ready, and found again by the runs that follow."""
    first = world.doctor(recipe := world.recipe(path, world.folder / "cache"))
    second = [world.first_step(recipe) for _ in range(repeats)]
    return {
        "prompts": prompts,
        "responses": prompts * K,
        "workers": world.workers,
        "gigabytes": round(path.stat().st_size / 1e9, 3),
        "cache_gigabytes": round(_size(world.folder / "cache") / 1e9, 3),
        "startup_seconds": round(startup, 2),
        "first_start": first.as_dict() | {"rows_per_second": round(prompts / (first.seconds - startup), 1)},
        "second_start_seconds": [round(value, 2) for value in second],
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _of_kind(world: World, path: Path, prompts: int, startup: float) -> dict[str, Any]:
    seen = world.doctor(world.recipe(write_rows(path, prompts), world.folder / f"cache-{path.name}"))
    return seen.as_dict() | {"prompts": prompts, "rows_per_second": round(prompts / (seen.seconds - startup), 1)}


def _kills(world: World, path: Path, startup: float, times: int = 3) -> dict[str, Any]:
    """Preparing is killed at random moments and started again; in the end all is there as if it had not been."""
    alone, killed = world.folder / "cache-alone", world.folder / "cache-killed"
    whole = world.doctor(world.recipe(path, alone)).seconds
    draw, left = random.Random(0), []
    for _ in range(times):
        world.doctor(world.recipe(path, killed), kill_after=draw.uniform(startup / 2, startup / 2 + whole / 3))
        time.sleep(1.0)
        left.append(len(_orphans(killed)))
    last = world.doctor(world.recipe(path, killed)).seconds
    return {
        "kills": times,
        "orphans": sum(left),
        "seconds_alone": round(whole, 2),
        "seconds_last": round(last, 2),
        "identical": _content(alone) == _content(killed),
    }


def _orphans(cache: Path) -> list[int]:
    """Processes that still prepare there."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(cache.name in word for word in process.info["cmdline"] or ()):
            found.append(process.pid)
    return found


def _content(cache: Path) -> dict[str, str]:
    """The digest of each prepared piece and account."""
    files = [path for path in cache.rglob("*") if path.suffix in (".arrow", ".json", ".npy")]
    return {str(path.relative_to(cache)): sha256(path.read_bytes()).hexdigest() for path in files}


def _reference(world: World, path: Path, prompts: int) -> dict[str, Any]:
    """The log-probs of a cached reference: read, and found again."""
    cache = world.folder / "cache-reference"
    recipe = world.recipe(path, cache, reference="cached", reference_cache=str(cache))
    first, second = world.doctor(recipe), world.doctor(recipe)
    return {"responses": prompts * K, "first": first.as_dict(), "second": second.as_dict()}


# ---------------------------------------------------------------------------------------------- beside TRL


def _beside_trl(world: World, prompts: int, repeats: int) -> dict[str, Any]:
    """The same responses made ready by both sides, in turn; each from its file to examples, imports left out."""
    rows = write_rows(world.folder / "beside.jsonl", prompts)
    one, all_pairs = (write_pairs(world.folder / f"pairs-{n}.jsonl", prompts, n) for n in (1, 6))
    cache = world.folder / "cache-beside"
    whole, paired = world.recipe(rows, cache), world.recipe(one, cache, method={"name": "dpo", "beta": 0.1})
    theirs = (world.folder / "model", world.workers)
    commands: dict[str, tuple[Any, ...]] = dict(
        zip(SIDES, (("ours", whole), ("ours", paired), ("trl", one, *theirs), ("trl", all_pairs, *theirs)), strict=True)
    )
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(repeats):
        for name, command in commands.items():
            shutil.rmtree(cache, ignore_errors=True)
            seconds[name].append(_side(*command))
    return {"prompts": prompts} | {name: _rates(prompts, *SIDES[name], found) for name, found in seconds.items()}


def _rates(prompts: int, rows: int, responses: int, seconds: Sequence[float]) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {
        "seconds": [round(value, 2) for value in seconds],
        "prompts_per_second": round(prompts / median, 1),
        "rows_per_second": round(prompts * rows / median, 1),
        "responses_per_second": round(prompts * responses / median, 1),
    }


def _side(*words: Any) -> float:
    command = [sys.executable, "-m", "soak.preparing", *map(str, words)]
    found = subprocess.run(command, capture_output=True, text=True, env={**psutil.Process().environ(), **QUIET})
    if found.returncode:
        raise RuntimeError(found.stderr[-2000:])
    return float(json.loads(found.stdout.splitlines()[-1])["seconds"])


# ---------------------------------------------------------------------------------------------- the verdict


def verdict(found: dict[str, Any]) -> dict[str, bool]:
    """What is promised, and whether it held, as far as it was measured."""
    held = {}
    if "whole" in found:
        starts = [found["whole"]["first_start"], *found.get("files", {}).values()]
        held[f"at most {MOST_MIB} MiB in every process"] = all(max(one["resident_mib"]) <= MOST_MIB for one in starts)
        second = max(found["whole"]["second_start_seconds"])
        held[f"a second start takes at most {SECOND_START:g} s"] = second <= SECOND_START
    if "kills" in found:
        held["kills change nothing and leave nobody"] = found["kills"]["identical"] and not found["kills"]["orphans"]
    if "beside_trl" in found:
        whole, ours, pair, pairs = (found["beside_trl"][name] for name in SIDES)
        held["at least TRL's rows a second, of one file of pairs"] = ours["rows_per_second"] >= pair["rows_per_second"]
        held["at least TRL's prompts a second, at all pairs"] = (
            whole["prompts_per_second"] >= pairs["prompts_per_second"]
        )
    return held


def main() -> None:
    workers = len(psutil.Process().cpu_affinity() or [1])
    found = begun("million", unfinished=lambda one: set(PARTS) - one.keys())
    with tempfile.TemporaryDirectory() as folder:
        for name, part in measure(Path(folder), PROMPTS, FEWER, BESIDE_TRL, REPEATS, workers, found):
            found[name] = part
            write("million", {**found, "promised": verdict(found)})
