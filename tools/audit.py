"""Ask PyPI for known vulnerabilities of the tested versions (constraints.txt). Who cannot be asked is named, and no
failure: a check must not depend on the network."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WORDS = ("--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json")


def told(report: Mapping[str, Any]) -> tuple[list[str], int]:
    """What pip-audit found, one sentence a line, and how many vulnerabilities that are."""
    versions = report["dependencies"]
    skipped = [one for one in versions if "skip_reason" in one]
    lines = [f"audit: {len(versions) - len(skipped)} of {len(versions)} versions looked up at PyPI"]
    if skipped:
        lines.append(f"audit: {len(skipped)} could not be looked up, the first because: {skipped[0]['skip_reason']}")
    found = [
        f"{one['name']} {one['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version yet'}"
        for one in versions
        for hole in one.get("vulns", ())
    ]
    return lines + found, len(found)


def main() -> int:
    """The exit code: 1 where a version has a known vulnerability."""
    call = [sys.executable, "-m", "pip_audit", "-r", str(ROOT / "constraints.txt"), *WORDS]
    done = subprocess.run(call, capture_output=True, text=True)  # noqa: S603 (words of ours)
    try:
        lines, found = told(json.loads(done.stdout))
    except ValueError:
        reason = (done.stderr.strip() or "no word").splitlines()[-1]
        lines, found = [f"audit: nobody could be asked, so nothing was audited ({reason})"], 0
    print(*lines, sep="\n")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
