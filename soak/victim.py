"""``python -m soak.victim RECIPE WITNESS [PLACE]``: ``mmpo train RECIPE``, which notes the prompts of every step, and
on request dies of SIGKILL at a place of its own, in the middle of what it writes there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACES = ("weights", "optimizer", "state", "seal", "rotation", "cache", "evaluation", "result", "record")
"""In a checkpoint that is not the first: while its weights are written, its optimiser's state, before its
trainer_state.json, before its seal, while an older one is deleted for it; while reference log-probs are kept; in the
second evaluation; while the trained model is saved, and before the last record."""


def main(words: list[str]) -> None:
    recipe, witness, *place = words
    from mmpo.cli import main as mmpo

    watch(Path(witness))
    if place:
        die_at(place[0])
    mmpo(["train", recipe])


def watch(witness: Path) -> None:
    """Append to a file, before each step is taken, its number and its prompts."""
    from mmpo.run.loop import GradedTrainer

    drawn, agree = GradedTrainer.get_batch_samples, GradedTrainer.agree
    ids: list[str] = []

    def get_batch_samples(self: Any, *given: Any) -> Any:
        samples, prompts = drawn(self, *given)
        ids[:] = [name for inputs in samples for batch in inputs["batch"] for name in batch.ids]
        return samples, prompts

    def taken(self: Any) -> None:
        with witness.open("a") as file:
            file.write(json.dumps({"step": self.state.global_step + 1, "ids": ids}) + "\n")
        agree(self)

    setattr(GradedTrainer, "get_batch_samples", get_batch_samples)  # noqa: B010 (as its signature is another)
    setattr(GradedTrainer, "agree", taken)  # noqa: B010


def die_at(place: str) -> None:
    """Let this process kill itself there."""
    {
        "weights": _weights,
        "optimizer": _optimizer,
        "state": _state,
        "seal": _seal,
        "rotation": _rotation,
        "cache": _cache,
        "evaluation": _evaluation,
        "result": _result,
        "record": _record,
    }[place]()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _halved(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _second(path: Any) -> bool:
    """Whether a file belongs to a checkpoint that is not the first of its run."""
    checkpoint = Path(path).parent
    return checkpoint.name.startswith("checkpoint-") and any(
        other != checkpoint for other in checkpoint.parent.glob("checkpoint-*")
    )


def _patch(owner: Any, name: str, then: Callable[..., None], before: bool = False) -> None:
    """Have ``then`` look at the arguments of a function after it has run, or before."""
    whole = getattr(owner, name)

    def patched(*given: Any, **further: Any) -> Any:
        if before:
            then(*given, **further)
        result = whole(*given, **further)
        if not before:
            then(*given, **further)
        return result

    setattr(owner, name, patched)


def _weights() -> None:
    import safetensors.torch
    from peft import peft_model
    from transformers import modeling_utils

    def half(tensors: Any, filename: Any, *_: Any, **further: Any) -> None:
        if _second(filename):
            _halved(Path(filename))
            _die()

    _patch(modeling_utils, "safe_save_file", half)
    _patch(peft_model, "safe_save_file", half)
    _patch(safetensors.torch, "save_file", half)


def _optimizer() -> None:
    import torch

    def half(content: Any, path: Any, *_: Any, **further: Any) -> None:
        if str(path).endswith("optimizer.pt") and _second(path):
            _halved(Path(path))
            _die()

    _patch(torch, "save", half)


def _state() -> None:
    from transformers import TrainerState

    _patch(TrainerState, "save_to_json", lambda _, path: _die() if _second(path) else None, before=True)


def _seal() -> None:
    from mmpo.run import checkpoints

    _patch(checkpoints, "seal", lambda folder: _die() if _second(folder / "any") else None, before=True)


def _rotation() -> None:
    def part(path: Any, *_: Any, **further: Any) -> None:
        if Path(path).name.startswith("checkpoint-"):
            (Path(path) / "optimizer.pt").unlink()
            _die()

    _patch(shutil, "rmtree", part, before=True)


def _cache() -> None:
    from mmpo.models.store import ReferenceStore

    _patch(ReferenceStore, "put", lambda *_, **further: _die())


def _evaluation() -> None:
    from mmpo.run.loop import GradedTrainer

    counted: list[None] = []

    def second(*_: Any, **further: Any) -> None:
        counted.append(None)
        if len(counted) == 2:
            _die()

    _patch(GradedTrainer, "evaluate", second, before=True)


def _result() -> None:
    from mmpo import train

    def half(model: Any, tokenizer: Any, folder: Path) -> None:
        _halved(folder / "model.safetensors")
        _die()

    _patch(train, "save", half)


def _record() -> None:
    from mmpo import train

    _patch(train, "_leave_record", lambda *_: _die(), before=True)


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.exit()
