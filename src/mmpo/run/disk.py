"""A disk that is full, read-only or over its quota: seen before training where it can be, and said in one line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from mmpo.errors import UserError

_PROBE = 1 << 20
_MEND = "free some space there, or choose another output_dir"


def refusal(folder: Path) -> OSError | None:
    """Why a mebibyte cannot be written into a folder, None where it can. Libraries lose the system's word for it."""
    place = folder / ".mmpo-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            place.write_bytes(bytes(_PROBE))
        finally:
            place.unlink(missing_ok=True)
    except OSError as error:
        return error
    return None


def free(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def needed(model: nn.Module) -> tuple[int, int]:
    """Bytes of a saved model, and of a checkpoint: its weights and two numbers of AdamW for each one that is trained.

    Of an adapter a checkpoint keeps the adapter alone.
    """
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    whole = sum(p.nbytes for p in model.parameters())
    kept = trained if hasattr(model, "peft_config") else whole
    return whole, kept + 2 * trained


def check_room(folder: Path, model: nn.Module, saves: bool) -> list[str]:
    """Before training: can the folder be written, and is there room for what the run will leave?

    Returns what to say where there is room for one checkpoint, but not for the next beside it.

    Raises:
        UserError: nothing can be written there, or not even the trained model and one checkpoint.
    """
    if (error := refusal(folder)) is not None:
        raise UserError(f"output_dir: {folder} cannot be written ({error.strerror}); {_MEND}")
    result, checkpoint = needed(model)
    room, least = free(folder), result + (checkpoint if saves else 0)
    if room < least:
        raise UserError(
            f"output_dir: {folder} has {size(room)} free, and the run needs {size(least)} (the trained model"
            f"{', and a checkpoint of ' + size(checkpoint) if saves else ''}); {_MEND}"
        )
    if saves and room < result + 2 * checkpoint:
        return [
            f"{size(room)} are free in {folder}; a checkpoint takes about {size(checkpoint)}, and an older one is "
            "given up only when the next is whole, so there is no room for two"
        ]
    return []


@contextmanager
def writing(place: Path, model: Any) -> Iterator[None]:
    """While a model is saved: a disk that takes no more is the user's to mend. Raises UserError for it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (reason := refusal(place if place.is_dir() else place.parent)) is None:
            raise
        raise UserError(
            f"{place}: cannot be written ({reason.strerror}); {size(free(place.parent))} are free, and a checkpoint "
            f"takes about {size(needed(model)[1])}. What was saved before is whole: free some space, and the same "
            "command goes on from it"
        ) from error


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
