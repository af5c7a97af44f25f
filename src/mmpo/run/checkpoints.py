"""Checkpoints that are whole, or known not to be.

A checkpoint is many files, and a kill, a full disk or a bad block may leave any of them out, short or changed. The last
thing written into one is its seal: the size and the hash of every file. What has no seal, or does not keep to it, is
never gone on from.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from accelerate.utils import broadcast_object_list

from mmpo.files import write_json

SEAL = "complete.json"

ASIDE = "damaged-"
"""What stands before the name of a checkpoint that was moved aside, so that nobody takes it for one."""

_NAME = re.compile(r"checkpoint-(\d+)")
_PIECE = 1 << 24
_STATE = "trainer_state.json"


@dataclass(frozen=True)
class Found:
    """The checkpoint that a run goes on from, None where it starts anew; and what is to be said about the others.

    ``damaged`` holds, by the name that it now has, what is wrong with each checkpoint that was moved aside.
    """

    checkpoint: str | None
    damaged: dict[str, str]
    told: list[str]


def seal(folder: Path) -> None:
    """State that a checkpoint is whole. Every file is on the disk before that, so that this outlives a power cut."""
    files = sorted(_files(folder))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(files, pool.map(lambda name: _measured(folder / name, settle=True), files), strict=True))
    write_json(folder / SEAL, {"hash": "xxh3_128", "files": found})
    for path in (folder / SEAL, *{(folder / name).parent for name in files}, folder, folder.parent):
        _settle(path)


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None where it is as it was sealed.

    Files that the seal does not name are no fault: somebody may have put them there.
    """
    if not folder.is_dir():
        return "the folder is missing"
    if not (folder / SEAL).is_file():
        absent = "" if (folder / _STATE).is_file() else f"{_STATE} is missing"
        return absent or "it was not finished"
    try:
        sealed: dict[str, list[Any]] = json.loads((folder / SEAL).read_text())["files"]
    except (ValueError, KeyError, TypeError):
        return f"{SEAL} cannot be read"
    for name, (size, _) in sealed.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (folder / name).stat().st_size != size:
            return f"{name} has {(folder / name).stat().st_size} bytes instead of {size}"
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for name, (_, digest) in zip(sealed, pool.map(lambda name: _measured(folder / name), sealed), strict=True):
            if digest != sealed[name][1]:
                return f"{name} has changed since it was written"
    return None


def newest(folder: Path) -> Path | None:
    """The newest sealed checkpoint of a run, without a look at its files."""
    return next((path for path in _newest_first(folder) if (path / SEAL).is_file()), None)


def settle_on(folder: Path, first: bool, several: bool, keeps_best: bool) -> Found:
    """Find the checkpoint to go on from: the newest that is whole, on every process the one that the ``first`` found.

    Damaged checkpoints that are newer are moved aside, not deleted. With ``keeps_best`` (``load_best_model_at_end``)
    the best model so far lies in a checkpoint of its own, and has to be whole as well.
    """
    found = [_settled(folder, keeps_best) if first else None]
    if several:
        broadcast_object_list(found)
    assert found[0] is not None
    return found[0]


def _settled(folder: Path, keeps_best: bool) -> Found:
    damaged: dict[str, tuple[str, str]] = {}
    chosen = None
    for path in _newest_first(folder):
        wrong = fault(path) or (_fault_of_best(path) if keeps_best else None)
        if wrong is None:
            chosen = path
            break
        damaged[path.name] = (_moved_aside(path).name, wrong)
    there = f"the run goes on from {chosen.name}" if chosen else "there is none to go on from, and the run starts anew"
    told = [f"{name} is not whole ({wrong}): it is now called {aside}" for name, (aside, wrong) in damaged.items()]
    if told:
        told[-1] += f"; {there}"
    elif chosen:
        told = [f"going on from {chosen}"]
    return Found(str(chosen) if chosen else None, dict(damaged.values()), told)


def _fault_of_best(folder: Path) -> str | None:
    """What is wrong with the checkpoint that holds the best model of a run, as another one names it."""
    state = json.loads((folder / _STATE).read_text())
    best = state.get("best_model_checkpoint")
    place = folder.parent / Path(best).name if best else folder
    wrong = None if place == folder else fault(place)
    return wrong and f"the best model so far is in {place.name}, of which {wrong}"


def _newest_first(folder: Path) -> list[Path]:
    named = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(named, reverse=True) if path.is_dir()]


def _moved_aside(path: Path) -> Path:
    place, n = path.with_name(f"{ASIDE}{path.name}"), 1
    while place.exists():
        n += 1
        place = path.with_name(f"{ASIDE}{path.name}-{n}")
    return path.rename(place)


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and path.name != SEAL:
            yield path.relative_to(folder).as_posix()


def _measured(path: Path, settle: bool = False) -> tuple[int, str]:
    """Size and hash of a file, which is made to lie on the disk if asked."""
    found, size, piece = xxhash.xxh3_128(), 0, bytearray(_PIECE)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            found.update(memoryview(piece)[:count])
            size += count
        if settle:
            os.fsync(file.fileno())
    return size, found.hexdigest()


def _settle(path: Path) -> None:
    """Make a file, or the names in a folder, lie on the disk."""
    if os.name == "posix":
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
