"""A command and the memory of all its processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

MIB = 2**20
_EVERY = 0.2
"""Seconds between two looks."""


@dataclass
class Watched:
    """What a command took, from ``began`` (Unix time) on: MiB at most in each of its processes, the first its own.

    ``resident`` is all that the kernel held in memory for a process at its height, pages of mapped files and pages that
    it shares with others included (VmHWM). ``own`` leaves out the files (RssAnon, at every look). ``together`` is the
    sum over the processes, shared pages counted once (Pss, at every look).
    """

    began: float = 0.0
    seconds: float = 0.0
    code: int | None = None
    resident: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    together: float = 0.0
    output: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 2),
            "processes": len(self.resident),
            "resident_mib": [round(value) for value in self.resident],
            "own_mib": [round(value) for value in self.own],
            "together_mib": round(self.together),
        }


def watch(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, kill_after: float | None = None
) -> Watched:
    """Run a command to its end, or kill it (SIGKILL, it alone) after so many seconds; what it says goes to the log."""
    seen = Watched()
    with log.open("w") as out:
        seen.began = time.time()
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        done = Event()
        looking = Thread(target=_look, args=(process.pid, seen, done))
        looking.start()
        try:
            seen.code = process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            seen.code = process.wait()
        seen.seconds = time.time() - seen.began
        done.set()
        looking.join()
    seen.output = log.read_text(errors="replace")
    return seen


def _look(pid: int, seen: Watched, done: Event) -> None:
    resident: dict[int, float] = {}
    own: dict[int, float] = {}
    while not done.wait(_EVERY):
        try:
            processes = [pid, *(one.pid for one in psutil.Process(pid).children(recursive=True))]
        except psutil.NoSuchProcess:
            break
        together = 0.0
        for one in processes:
            status = _numbers(one, "status")
            if "VmHWM" not in status:  # it is gone
                continue
            resident[one] = max(resident.get(one, 0.0), status["VmHWM"])
            own[one] = max(own.get(one, 0.0), status["RssAnon"])
            together += _numbers(one, "smaps_rollup").get("Pss", 0.0)
        seen.together = max(seen.together, together)
    seen.resident, seen.own = list(resident.values()), list(own.values())


def _numbers(pid: int, name: str) -> dict[str, float]:
    """The lines "Key: n kB" of a file of /proc, in MiB."""
    try:
        text = Path(f"/proc/{pid}/{name}").read_text()
    except (OSError, ProcessLookupError):
        return {}
    return {key: int(value) * 1024 / MIB for key, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)}
