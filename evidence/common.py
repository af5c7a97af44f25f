"""What the evidence runs share: where the data lie, a record of the machine, and tables over seeds."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from mmpo.run.provenance import versions

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MMPO_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "docs" / "evidence"
METRICS = ("accuracy", "nll", "ece", "brier", "overconfidence")


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": versions(),
    }


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean over seeds and its 95% Student interval."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return {"mean": mean, "low": float("nan"), "high": float("nan"), "n": len(values)}
    half = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(values)}


def over_seeds(rows: Sequence[Mapping[str, Any]], by: Sequence[str], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of single runs -> one row for each setting, every metric as mean and interval over its seeds."""
    settings = list(dict.fromkeys(tuple(row[key] for key in by) for row in rows))
    out = []
    for setting in settings:
        same = [row for row in rows if tuple(row[key] for key in by) == setting]
        cells = {metric: interval([row[metric] for row in same]) for metric in metrics}
        out.append({**dict(zip(by, setting, strict=True)), **cells})
    return out


def paired(
    rows: Sequence[Mapping[str, Any]], a: str, b: str, by: Sequence[str], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Differences a - b between two methods, seed by seed, as mean and interval."""
    out = []
    for setting in dict.fromkeys(tuple(row[key] for key in by) for row in rows):
        same = [row for row in rows if tuple(row[key] for key in by) == setting]
        of = {name: {row["seed"]: row for row in same if row["method"] == name} for name in (a, b)}
        seeds = sorted(of[a].keys() & of[b].keys())
        if not seeds:
            continue
        cells = {m: interval([of[a][s][m] - of[b][s][m] for s in seeds]) for m in metrics}
        out.append({**dict(zip(by, setting, strict=True)), "difference": f"{a} - {b}", **cells})
    return out


def write(name: str, result: Mapping[str, Any]) -> None:
    """Write docs/evidence/NAME.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=1, default=float) + "\n")
    print(f"wrote {path.relative_to(ROOT)}")


def table(rows: Sequence[Mapping[str, Any]], by: Sequence[str], metrics: Sequence[str]) -> str:
    """Rows of means and intervals as a Markdown table."""
    lines = ["| " + " | ".join([*by, *metrics]) + " |", "|" + "---|" * (len(by) + len(metrics))]
    for row in rows:
        cells = [f"{row[m]['mean']:.4f} [{row[m]['low']:.4f}, {row[m]['high']:.4f}]" for m in metrics]
        lines.append("| " + " | ".join([*(str(row[key]) for key in by), *cells]) + " |")
    return "\n".join(lines)
