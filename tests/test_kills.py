"""Kills: a run that is killed where it writes goes on, and ends with the bits of one that was left alone.

The long version, with random moments and all kinds of runs, is ``python -m soak kills``.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from soak import kills

from mmpo.run import checkpoints
from mmpo.run.disk import size


@pytest.fixture(scope="module")
def world(tmp_path_factory: Any) -> tuple[Path, dict[str, str]]:
    """Where runs are, one of each kind that was left alone among them."""
    folder = tmp_path_factory.mktemp("kills")
    world = kills.make_world(folder)
    torch.set_num_threads(1)
    return folder, world


SHORT = {"max_steps": 14, "per_device_train_batch_size": 12}
"""Five steps are an epoch, or three where two batches are one."""


def alone(world: tuple[Path, dict[str, str]], kind: str) -> Path:
    folder = world[0] / kind / "alone"
    if not folder.exists():
        assert kills.run(kills.recipe(world[1], kind, folder, **SHORT)) == 0, (folder / "log.txt").read_text()
    return folder


@pytest.mark.parametrize(("kind", "spot"), [("LoRA", "optimizer"), ("reward", "evaluation")])
def test_a_run_that_is_killed_ends_as_if_nothing_had_happened(kind: str, spot: str, world: Any) -> None:
    """Weights, prompts of every step, and the log."""
    path = kills.recipe(world[1], kind, world[0] / kind / spot, **SHORT)
    tale = kills._aimed(path, spot)
    assert tale.wrong + kills.differences(alone(world, kind), path.parent) == []
    log = (path.parent / "log.txt").read_text()
    if spot == "optimizer":
        assert (
            "checkpoint-8 is not whole (trainer_state.json is missing): it is now called damaged-checkpoint-8; the run "
            "goes on from checkpoint-4"
        ) in log
        assert (path.parent / "run" / "damaged-checkpoint-8").is_dir()
    else:
        assert "going on from" in log


def test_a_run_that_is_asked_to_leave_saves_first(world: Any) -> None:
    """Ctrl-C, then SIGTERM, then left alone."""
    path = kills.recipe(world[1], "reward", world[0] / "reward" / "asked", **SHORT, save_steps=100)
    witness = path.parent / "witness.jsonl"
    for asked in (signal.SIGINT, signal.SIGTERM):
        seen = witness.read_text().count("\n") if witness.is_file() else 0
        process = kills.start(path)
        deadline = time.monotonic() + 60
        while not (witness.is_file() and witness.read_text().count("\n") > seen + 2) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.ident or 0, asked)
        process.join()
        assert process.exitcode == 128 + asked
        left = checkpoints.newest(path.parent / "run")
        assert left is not None
        assert checkpoints.fault(left) is None
        log = (path.parent / "log.txt").read_text()
        assert f"{asked.name}: saving after this step; a second signal leaves at once" in log
        step = left.name.removeprefix("checkpoint-")
        assert f"stopped by {asked.name} at step {step}; the same command goes on" in log
    assert kills.run(path) == 0
    assert kills.differences(alone(world, "reward"), path.parent) == []


# ---------------------------------------------------------------------------------------------- seals


def checkpoint(folder: Path, step: int, best: str | None = None) -> Path:
    place = folder / f"checkpoint-{step}"
    (place / "inner").mkdir(parents=True)
    (place / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (place / "inner" / "shard_0").write_bytes(b"shard")
    (place / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": best}))
    checkpoints.seal(place)
    return place


def settled(folder: Path, keeps_best: bool = False) -> checkpoints.Found:
    return checkpoints.settle_on(folder, first=True, several=False, keeps_best=keeps_best)


def test_a_whole_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    for step in (2, 10, 4):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-10" / "note.txt").write_text("somebody's own")
    (tmp_path / "checkpoint-final").mkdir()
    assert settled(tmp_path) == checkpoints.Found(
        str(tmp_path / "checkpoint-10"), {}, [f"going on from {tmp_path}/checkpoint-10"]
    )
    assert settled(tmp_path / "nowhere") == checkpoints.Found(None, {}, [])


def test_a_seal_lies_on_the_disk_and_so_do_the_names_around_it(tmp_path: Path, monkeypatch: Any) -> None:
    settled: list[Path] = []
    fsync = os.fsync

    def noted(opened: int) -> None:
        settled.append(Path(os.readlink(f"/proc/self/fd/{opened}")))
        fsync(opened)

    monkeypatch.setattr(os, "fsync", noted)
    place = checkpoint(tmp_path, 2)
    files = {place / name for name in ("model.safetensors", "trainer_state.json", "inner/shard_0")}
    assert set(settled[:3]) == files
    assert settled[3] == place / checkpoints.SEAL
    assert set(settled[4:]) == {place / "inner", place, tmp_path}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5000 % len(content)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda place: (place / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (lambda place: flip(place / "model.safetensors"), "model.safetensors has changed since it was written"),
        (lambda place: flip(place / "inner" / "shard_0"), "inner/shard_0 has changed since it was written"),
        (
            lambda place: (place / "model.safetensors").write_bytes(bytes(9)),
            "model.safetensors has 9 bytes instead of 10240",
        ),
        (lambda place: (place / "complete.json").unlink(), "it was not finished"),
        (lambda place: (place / "complete.json").write_text("{"), "complete.json cannot be read"),
    ],
)
def test_damage_is_found_and_moved_aside(damage: Any, said: str, tmp_path: Path) -> None:
    checkpoint(tmp_path, 2)
    damage(checkpoint(tmp_path, 4))
    found = settled(tmp_path)
    assert found.checkpoint == str(tmp_path / "checkpoint-2")
    assert found.damaged == {"damaged-checkpoint-4": said}
    assert found.told == [
        f"checkpoint-4 is not whole ({said}): it is now called damaged-checkpoint-4; the run goes on from checkpoint-2"
    ]
    assert not (tmp_path / "checkpoint-4").exists()
    checkpoint(tmp_path, 4)
    damage(tmp_path / "checkpoint-4")
    assert list(settled(tmp_path).damaged) == ["damaged-checkpoint-4-2"]


def test_with_none_whole_the_run_starts_anew_and_says_so(tmp_path: Path) -> None:
    for step in (2, 4):
        (checkpoint(tmp_path, step) / "complete.json").unlink()
    found = settled(tmp_path)
    assert found.checkpoint is None
    assert sorted(found.damaged) == ["damaged-checkpoint-2", "damaged-checkpoint-4"]
    assert found.told[-1].endswith("; there is none to go on from, and the run starts anew")


def test_a_run_that_keeps_its_best_needs_that_whole_too(tmp_path: Path) -> None:
    checkpoint(tmp_path, 2)
    flip(checkpoint(tmp_path, 4) / "model.safetensors")
    # Named by where the run was when it was saved; its folder has been moved since.
    checkpoint(tmp_path, 6, best="/elsewhere/run/checkpoint-4")
    assert settled(tmp_path).checkpoint == str(tmp_path / "checkpoint-6")
    found = settled(tmp_path, keeps_best=True)
    assert found.checkpoint == str(tmp_path / "checkpoint-2")
    assert found.damaged["damaged-checkpoint-6"] == (
        "the best model so far is in checkpoint-4, of which model.safetensors has changed since it was written"
    )


@pytest.mark.parametrize(("count", "told"), [(0, "0 bytes"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e15, "3e+03 TB")])
def test_sizes_for_people(count: float, told: str) -> None:
    assert size(count) == told
