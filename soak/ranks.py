"""Many processes train like one: the same curve, checkpoints for any number of them, a lost process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from soak.common import ROOT, begun, write
from soak.world import world

PROMPTS_A_STEP = 8


def recipe(
    world: Path, name: str, processes: int, steps: int, accumulation: int = 1, evaluate: bool = True, **keys: Any
) -> Path:
    """A recipe whose steps are the same however many processes share them. Returns its path."""
    evaluation = {
        "eval_data": str(world / "held_out.jsonl"),
        "per_device_eval_batch_size": PROMPTS_A_STEP // processes,
        "eval_strategy": "steps",
        "eval_steps": 10,
    }
    told = {
        "model": str(world / "policy"),
        "method": {"name": "mmpo", "gamma": 2.2, "beta": 0.1},
        "data": str(world / "rows.jsonl"),
        "output_dir": str(world / "runs" / name),
        "per_device_train_batch_size": PROMPTS_A_STEP // processes // accumulation,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": 1e-3,
        "max_steps": steps,
        "logging_steps": 1,
        "save_strategy": "no",
        "micro_batch_tokens": 100,
        "max_length": 128,
        "use_cpu": True,
        "seed": 5,
        "disable_tqdm": True,
        **(evaluation if evaluate else {}),
        **({"reference_cache": str(world / "cache" / name)} if keys.get("reference") == "cached" else {}),
        **keys,
    }
    path = world / f"{name}.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


def command(recipe: Path, processes: int, *launcher: str) -> list[str]:
    """The front door, through torchrun where there are several processes."""
    fsdp = "fsdp" in yaml.safe_load(recipe.read_text())
    door = [str(ROOT / "soak" / "fsdp_on_cpu.py")] if fsdp else ["-m", "mmpo"]
    launched = ["-m", "torch.distributed.run", *(launcher or ("--standalone",)), "--nproc_per_node", str(processes)]
    return [sys.executable, *(launched if processes > 1 else ()), *door, "train", str(recipe)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def run(recipe: Path, processes: int, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    asked = command(recipe, processes)
    return subprocess.run(asked, capture_output=True, text=True, timeout=timeout, env=environment(), check=False)


def curve(recipe: Path) -> dict[str, list[float]]:
    """What was logged at each step, by name: the losses of training, and those of evaluation."""
    folder = Path(yaml.safe_load(recipe.read_text())["output_dir"])
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {name: [entry[name] for entry in log if name in entry] for name in ("loss", "eval_loss", "grad_norm")}


Way = tuple[str, int]
"""How weights lie, DDP or FSDP2, and the number of processes."""

ALL: tuple[Way, ...] = (("DDP", 2), ("FSDP2", 2), ("DDP", 4), ("FSDP2", 4))
LARGE, SMALL = ALL[1:3], (ALL[0], ALL[3])
STEPS, FEW = 50, 20


@dataclass(frozen=True)
class Case:
    """What is trained, for how many steps, and in which ways beside one process."""

    keys: dict[str, Any]
    ways: tuple[Way, ...]
    steps: int = STEPS


CASES = {
    f"policy, tied weights, accumulated ({FEW} steps)": Case({"model": "tied", "accumulation": 2}, ALL[1:2], FEW),
    f"policy, LoRA ({FEW} steps)": Case({"lora": {"r": 4}}, ALL[1:2], FEW),
    "reward model": Case({"model": "reward", "method": {"name": "mmpo_reward", "gamma": 2.2}}, SMALL),
    "policy, padded rows": Case({"layout": "padded"}, LARGE),
    "policy, separate rows, reference cached": Case({"layout": "separate", "reference": "cached"}, SMALL),
    "policy, shared rows, reference copied": Case({}, ALL),
}
"""The cheapest first."""

RESUMED: dict[Way, tuple[int, ...]] = {("DDP", 2): (1, 4), ("DDP", 4): (2,), ("FSDP2", 2): (4,), ("FSDP2", 4): (2,)}
"""Runs that are stopped half-way, and the numbers of processes that they go on with."""

LOST = ((2, 1), (4, 2))
"""Processes, and machines: launchers of their own on this one."""

CURVES, GOING_ON, KILLED = (
    "largest difference from one process",
    "largest difference after going on with another number of processes",
    "one process killed",
)


def main() -> None:
    """Measure what is not measured yet, each case written as soon as it is done; a whole result is measured anew."""
    found = begun("ranks", unfinished=lambda one: one.get("cases left"))
    with tempfile.TemporaryDirectory() as folder:
        place = world(Path(folder))
        tasks: list[tuple[str, set[str], Callable[[], dict[str, Any]]]] = [
            *((KILLED, {on_machines(*one)}, partial(lost_one, place, *one)) for one in LOST),
            *((CURVES, {name}, partial(compared, place, name, case)) for name, case in CASES.items()),
            *((GOING_ON, {*going_on(*way)}, partial(resumed, place, *way)) for way in RESUMED),
        ]
        left = [task for task in tasks if not task[1] <= found.get(task[0], {}).keys()]
        for n, (group, _, measure) in enumerate(tqdm(left, desc="ranks")):
            begin = time.monotonic()
            found[group] = found.get(group, {}) | measure()
            seconds = found.get("seconds", 0) + round(time.monotonic() - begin)
            found |= {"steps": STEPS, "seconds": seconds, "cases left": len(left) - n - 1}
            write("ranks", found)


def compared(place: Path, name: str, case: Case) -> dict[str, dict[str, float]]:
    """How far the curves of several processes are from that of one."""
    keys = {**case.keys, **({"model": str(place / case.keys["model"])} if "model" in case.keys else {})}
    slug = re.sub(r"\W+", "-", name)
    alone = trained(recipe(place, f"{slug}-1", 1, case.steps, **keys), 1)
    found = {}
    for kind, n in case.ways:
        several = trained(recipe(place, f"{slug}-{kind}-{n}", n, case.steps, **keys, **lying(kind)), n)
        found[f"{kind}, {n} processes"] = gaps(alone, several)
    return {name: found}


def lying(kind: str) -> dict[str, Any]:
    return {"fsdp": True} if kind == "FSDP2" else {}


def trained(made: Path, processes: int) -> dict[str, list[float]]:
    done = run(made, processes)
    if done.returncode:
        raise RuntimeError(f"{made.name}: {done.stderr[-3000:]}")
    return curve(made)


def gaps(one: dict[str, list[float]], other: dict[str, list[float]]) -> dict[str, float]:
    """The largest difference of each curve."""
    return {
        name: max(abs(a - b) for a, b in zip(values, other[name], strict=True))
        for name, values in one.items()
        if values
    }


def going_on(kind: str, before: int) -> dict[str, int]:
    """What a stopped run goes on with, by name."""
    return {f"{kind}: {before} -> {after}": after for after in RESUMED[kind, before]}


def resumed(place: Path, kind: str, before: int) -> dict[str, dict[str, float]]:
    """Stop a run half-way, go on with other numbers of processes, and hold it against the run that was not stopped."""
    name, half = f"resumed-{kind}-{before}", STEPS // 2
    keys: dict[str, Any] = {"evaluate": False, "save_strategy": "steps", "save_steps": half, **lying(kind)}
    whole = trained(recipe(place, name, before, STEPS, **keys), before)
    found = {}
    for told, after in going_on(kind, before).items():
        rewind(place / "runs" / name, half)
        found[told] = gaps(whole, trained(recipe(place, name, after, STEPS, **keys), after))
    return found


def rewind(folder: Path, step: int) -> None:
    """Leave of a run what it had when it was killed after the checkpoint of this step."""
    for path in folder.iterdir():
        if path.name not in (f"checkpoint-{step}", "run.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "started"}))


def on_machines(processes: int, machines: int) -> str:
    return f"{processes} processes on {machines} machine{'s' * (machines > 1)}"


def lost_one(place: Path, processes: int, machines: int) -> dict[str, Any]:
    """Kill the last process in the middle of a run, see all leave, and start again."""
    name = f"lost-{processes}-{machines}"
    made = recipe(place, name, processes, 120, evaluate=False, save_strategy="steps", save_steps=10, save_total_limit=1)
    started = launched(made, processes, machines)
    while not list((place / "runs" / name).glob("checkpoint-*/complete.json")):
        if any(launcher.poll() is not None for launcher in started):
            raise RuntimeError(f"{name}: ended before it was killed")
        time.sleep(0.2)
    os.kill(of_rank(started[-1].pid, processes - 1), signal.SIGKILL)
    begin = time.monotonic()
    told = [launcher.communicate(timeout=120)[1] for launcher in started]
    seconds = time.monotonic() - begin
    line = f"process {processes - 1} of {processes} (counted from 0) went"
    again = launched(made, processes, machines)
    said = [launcher.communicate(timeout=600)[1] for launcher in again]
    found = {
        "seconds until all had left": round(seconds, 1),
        "exit codes": [launcher.returncode for launcher in started],
        "times it was named": sum(text.count(line) for text in told),
        "exit codes of the restart": [launcher.returncode for launcher in again],
        "steps in the end": len(curve(made)["loss"]) if not any(p.returncode for p in again) else said[-1][-500:],
    }
    return {on_machines(processes, machines): found}


def launched(made: Path, processes: int, machines: int) -> list[subprocess.Popen[str]]:
    """The front door in so many processes, by one launcher a machine."""
    several = ("--nnodes", str(machines), "--master_addr", "127.0.0.1", "--master_port", "29611", "--node_rank")
    return [
        subprocess.Popen(
            command(made, processes // machines, *((*several, str(n)) if machines > 1 else ())),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for n in range(machines)
    ]


def of_rank(launcher: int, rank: int) -> int:
    """The process of that rank under a launcher."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return next(int(n) for n in children if f"\0RANK={rank}\0".encode() in Path(f"/proc/{n}/environ").read_bytes())
