"""``python -m bench``: training speed against TRL, both sides in one run, turn by turn; writes docs/performance.md.

Each side of each turn is a process of its own that sets up, warms up, is timed and says one line. Results are written
after each workload, and a later run with --only replaces what it measures again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from evidence.common import ROOT, machine

from bench.catalogue import EVERY, GPU, WORKLOADS
from bench.page import write_page
from bench.summary import summarise
from bench.workload import Workload

MARK = "measured: "
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, invoke_without_command=True)
Only = Annotated[str, typer.Option(help="Workloads, such as a,c or d; default: all.")]
Precision = Annotated[str, typer.Option(help="fp32, bf16 or both.")]
Turns = Annotated[int | None, typer.Option(help="Turns of each workload; default: each its own.")]
Quick = Annotated[bool, typer.Option("--quick", help="Tiny models and few rows: does it run?")]
Out = Annotated[Path | None, typer.Option(help="The results; the page and its pictures come beside them.")]


@app.callback()
def speed(
    context: typer.Context,
    only: Only = "",
    precision: Precision = "both",
    turns: Turns = None,
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Compare training speed with TRL on this machine's processor."""
    if context.invoked_subcommand is not None:
        return
    if precision not in ("both", "fp32", "bf16"):
        raise typer.BadParameter(f"precision is {precision!r}; use fp32, bf16 or both")
    out = out or place(quick, "performance.json")
    run(chosen(WORKLOADS, only), precision, turns, quick, out, page=out)


@app.command()
def gpu(only: Only = "", turns: Turns = None, quick: Quick = False, out: Out = None) -> None:
    """The same on one CUDA device, with a model of half a billion parameters in bf16."""
    if not torch.cuda.is_available():
        print("this machine has no CUDA device; run python -m bench gpu where there is one", file=sys.stderr)
        raise typer.Exit(2)
    out = out or place(quick, "performance-gpu.json")
    beside = out.with_name("performance.json")
    workloads = {name: workload for name, workload in EVERY.items() if name not in WORKLOADS}
    run(chosen(workloads, only, GPU), "both", turns, quick, out, page=beside if beside.is_file() else None)


@app.command()
def page(out: Out = None) -> None:
    """Write the page again from results that are there: performance.json, and performance-gpu.json beside it."""
    write_page(out or place(False, "performance.json"))


@app.command(hidden=True)
def side(workload: str, name: str, precision: str, quick: Quick = False) -> None:
    """One side, in a process of its own."""
    from bench.sides import run_side

    there = EVERY[workload].smaller() if quick else EVERY[workload]
    print(MARK + json.dumps(run_side(there, name, precision)))


def place(quick: bool, name: str) -> Path:
    return ROOT / ("runs/bench" if quick else "docs") / name


def chosen(workloads: Mapping[str, Workload], only: str, prefix: str = "") -> dict[str, Workload]:
    """The workloads whose names begin as one of those asked for."""
    wanted = tuple(prefix + name.strip() for name in only.split(",") if name.strip())
    found = {name: workload for name, workload in workloads.items() if not wanted or name.startswith(wanted)}
    if missing := [name for name in wanted if not any(known.startswith(name) for known in workloads)]:
        raise typer.BadParameter(f"no workload {', '.join(missing)}; known: {', '.join(workloads)}")
    return found


def run(
    workloads: Mapping[str, Workload], precision: str, turns: int | None, quick: bool, out: Path, page: Path | None
) -> None:
    """Measure, and after each workload write the results and the page that shows them."""
    out.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(out.read_text()) if out.is_file() else {}
    start = time.perf_counter()
    peaks: dict[str, float] = {}
    for name, workload in workloads.items():
        smaller = workload.smaller() if quick else workload
        for one in workload.precisions:
            if precision not in ("both", one):
                continue
            if one not in peaks:
                peaks[one] = measured(name, "peak", one, quick)["flops"]
                print(f"peak in {one}: {peaks[one] / 1e9:.0f} GFLOP/s", flush=True)
            taken = [turn(name, smaller, one, n, quick) for n in range(turns or smaller.turns)]
            summary = summarise(smaller, taken, peaks[one])
            known[f"{name} {one}"] = {
                "workload": name,
                "precision": one,
                "command": command(name, one, len(taken), quick),
                "machine": where(name),
                "peak": peaks[one],
                "summary": summary,
                "turns": taken,
            }
            known = dict(sorted(known.items(), key=lambda item: list(EVERY).index(item[1]["workload"])))
            out.write_text(json.dumps(known, indent=1) + "\n")
            if page is not None:
                write_page(page)
            minutes = (time.perf_counter() - start) / 60
            figures = ", ".join(f"{key} {value['median']:.3g}" for key, value in summary.items() if "median" in value)
            print(f"{minutes:.0f} min, {name} {one}: {figures}", flush=True)


def command(name: str, precision: str, turns: int, quick: bool) -> str:
    """What measures this result again."""
    words = ["python -m bench"]
    words += (
        ["gpu --only " + name.removeprefix(GPU)]
        if name.startswith(GPU)
        else [f"--only {name}", f"--precision {precision}"]
    )
    return " ".join([*words, f"--turns {turns}", *(["--quick"] if quick else [])])


def where(name: str) -> dict[str, Any]:
    """The machine as the workload sees it: one CUDA device, or the processor."""
    found = machine()
    found["versions"] = {**found["versions"], "trl": version("trl")}
    return {**found, "processor": processor(), **({} if name.startswith(GPU) else {"device": "cpu"})}


def turn(name: str, workload: Workload, precision: str, n: int, quick: bool) -> dict[str, Any]:
    """Every side once, one after the other."""
    out = {}
    for side in workload.sides:
        out[side] = measured(name, side, precision, quick)
        seconds = [round(s, 2) for s in out[side]["seconds"]]
        print(f"{name} {precision}, turn {n + 1}, {side}: {seconds} s", flush=True)
    same_rows(name, workload, out)
    return out


def same_rows(name: str, workload: Workload, turn: Mapping[str, Any]) -> None:
    """Both sides must have been given the same sequences; a random sample of pairs cannot be held to that."""
    pair = workload.versus if workload.measure == "steps" else None
    if pair and not any(workload.sides[side].pairs for side in pair):
        first, second = (turn[side]["sequences"] for side in pair)
        if first != second:
            raise RuntimeError(
                f"{name}: the sides were given different rows: {first} and {second} sequences and tokens"
            )


def measured(workload: str, side: str, precision: str, quick: bool) -> dict[str, Any]:
    """The line of a process that measures one side. It sees one CUDA device, or none."""
    words = [sys.executable, "-m", "bench", "side", workload, side, precision, *(["--quick"] if quick else [])]
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    seen = {"CUDA_VISIBLE_DEVICES": first if workload.startswith(GPU) else "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **seen})
    said = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not said:
        raise SystemExit(f"{' '.join(words[2:])} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(said[-1][len(MARK) :])
    return result


def processor() -> str:
    """The name of the processor, where the system tells it (Linux)."""
    path = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else "unknown"


if __name__ == "__main__":
    app()
