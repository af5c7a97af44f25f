"""What the soak runs share: where results lie, and how they are written."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
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
