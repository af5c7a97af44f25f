"""What the soak runs share: where results lie, and how they are written."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evidence.common import machine

from mmpo.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "reliability"


def write(name: str, result: Mapping[str, Any]) -> None:
    """Write docs/reliability/NAME.json, with the machine and the command that measured it."""
    command = shlex.join(["python", "-m", "soak", *sys.argv[1:]])
    path = RESULTS / f"{name}.json"
    write_json(path, {"command": command, "machine": machine(), **result})
    print(f"wrote {path.relative_to(ROOT)}")


def begun(name: str, unfinished: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    """What a run on this machine that was stopped has written; nothing where it was finished, to be measured anew."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    goes_on = found and unfinished(found) and found["machine"] == machine()
    return {key: value for key, value in found.items() if key not in ("command", "machine")} if goes_on else {}
