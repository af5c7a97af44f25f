"""Where a run comes from: the code, the command, the machine and the weights, so that it can be told and repeated."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from hashlib import file_digest
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from mmpo import __version__
from mmpo.plain import plain

LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "peft", "tokenizers", "safetensors", "numpy")
OPTIONAL = ("bitsandbytes", "deepspeed")

_SECRET = re.compile(r"token|secret|passw|api.?key", re.IGNORECASE)
_WAIT = 10.0
"""Seconds that git may take, on a slow disk say, before the record goes without it."""


def versions() -> dict[str, str]:
    """Versions of mmpo and of what the numbers depend on."""
    found = {"mmpo": __version__, "python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    for name in OPTIONAL:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def surroundings(args: TrainingArguments) -> dict[str, Any]:
    """What runs, on what: the command line, the state of git where it was called, and the devices of all processes."""
    device = args.device.type
    return {
        "command": command(sys.argv),
        "git": git_state(Path.cwd()),
        "world_size": args.world_size,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def command(words: Sequence[str]) -> str:
    """A command line as one would type it, without the values of flags that hold secrets."""
    program = Path(words[0])
    start = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    told, hide = [*start, *words[1:]], False
    for n, word in enumerate(told):
        flag, equals, _ = word.partition("=")
        secret = word.startswith("-") and _SECRET.search(flag) is not None
        if hide or (secret and equals):
            told[n] = f"{flag}=..." if equals and not hide else "..."
        hide = secret and not equals
    return plain(shlex.join(told))


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of a working tree, and whether it holds changes since; None outside of one, or without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    # Without a lock, so that nobody's own git command is in the way of this one, or the other way round.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    # Nor does the working tree of a stranger start its monitor here.
    call = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *words]
    done = subprocess.run(call, env=environment, timeout=_WAIT, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def saved_weights(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of weights that a run leaves, as ``sha256sum`` gives it."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            found[path.name] = file_digest(file, "sha256").hexdigest()
    return found


def peak_memory() -> dict[str, int]:
    """The most memory that this process has held, in bytes: main memory, and that of its accelerator."""
    found = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["main"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if torch.cuda.is_available():
        found["device"] = torch.cuda.max_memory_allocated()
    return found
