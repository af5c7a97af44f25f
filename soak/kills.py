"""Kills: runs that are killed at random moments and started again end with the very bits of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from tqdm.auto import tqdm
from transformers import LlamaForCausalLM

from mmpo.demo.reference import make_config, make_tokenizer
from mmpo.demo.task import WORDS
from mmpo.run.record import read_record
from mmpo.train import train_recipe  # noqa: F401 (loaded before the runs are)
from soak import victim
from soak.common import ROOT, write
from soak.victim import PLACES

KILLS = 60
"""At random moments, over all kinds of runs together."""

TERMS = 6
"""Runs that are asked to leave, by SIGTERM, at a random moment."""

PROMPTS, STEPS = 60, 32

COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "max_steps": STEPS,
    "learning_rate": 3e-4,
    "logging_steps": 3,
    "save_steps": 4,
    "save_total_limit": 2,
    "disable_tqdm": True,
    "disable_dropout": False,
    "seed": 7,
}

KINDS: dict[str, dict[str, Any]] = {
    "policy": {
        "method": {"name": "mmpo", "gamma": 0.5},
        "reference": "cached",
        "gradient_accumulation_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "load_best_model_at_end": True,
        "early_stopping_patience": 20,
    },
    "LoRA": {"method": {"name": "mmpo", "gamma": 0.5}, "lora": {"r": 4, "lora_dropout": 0.1}, "logging_steps": 1},
    "reward": {"method": {"name": "mmpo_reward", "gamma": 0.5}, "eval_strategy": "epoch", "save_steps": 5},
}
"""With dropout, so that random numbers count; the policy with accumulation, early stopping and its best model put back;
logs that do not fall together with checkpoints; of the reward model a checkpoint just before the end of an epoch, at
which it is evaluated."""


@dataclass
class Tale:
    """What became of one run: how it was ended how often, what it said when it went on, and what is wrong with it."""

    kills: int = 0
    terms: int = 0
    starts: int = 0
    moved_aside: int = 0
    anew: int = 0
    wrong: list[str] = field(default_factory=list)


def main() -> None:
    """Write docs/reliability/kills.json."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        write("kills", measured(Path(place)))


def measured(folder: Path, kills: int = KILLS, terms: int = TERMS) -> dict[str, Any]:
    """Kill runs of every kind, at random and at every place, and compare what they leave."""
    world = make_world(folder)
    draw = random.Random(0)
    out: dict[str, Any] = {}
    with tqdm(total=kills + terms, desc="kills at random moments", unit="kill") as bar:
        for kind in KINDS:
            alone = recipe(world, kind, folder / kind / "alone")
            if code := run_alone(alone):
                sys.exit(f"{alone} ended with {code}: {_log(alone)}")
            began = time.monotonic()
            run(recipe(world, kind, folder / kind / "timed"))
            whole = time.monotonic() - began
            ways = [signal.SIGKILL] * (kills // len(KINDS)) + [signal.SIGTERM] * (terms // len(KINDS))
            draw.shuffle(ways)
            tales: dict[str, Tale] = {}
            while ways:
                name = f"random-{len(tales)}"
                tales[name] = _at_random(recipe(world, kind, folder / kind / name), ways, whole, draw, bar)
            for spot in places(kind):
                tales[spot] = _aimed(recipe(world, kind, folder / kind / spot), spot)
            for name, tale in tales.items():
                tale.wrong += differences(alone.parent, folder / kind / name)
            out[kind] = {**_summary(tales), "seconds_alone": round(whole, 1)}
    return {"kinds": out, "total": _total(out), "steps": STEPS, "prompts": PROMPTS}


def places(kind: str) -> list[str]:
    """Where a run of this kind can be killed: not all of them have a cached reference, or are evaluated."""
    absent = {"cache": "reference" not in KINDS[kind], "evaluation": "eval_strategy" not in KINDS[kind]}
    return [place for place in PLACES if not absent.get(place, False)]


def _at_random(
    path: Path, ways: list[signal.Signals], whole: float, draw: random.Random, bar: Any, at_most: int = 5
) -> Tale:
    """Start a run and end it at any moment of its life, a few times in the next of these ways, until it is done."""
    tale = Tale()
    for _ in range(min(at_most, len(ways))):
        process = start(path)
        tale.starts += 1
        process.join(draw.uniform(0, whole))
        if process.is_alive():
            os.kill(process.ident or 0, ways[-1])
        process.join()
        if (code := _code(process)) == 0:
            return _told(path, tale)
        way = ways.pop()
        tale.kills += way == signal.SIGKILL
        tale.terms += way == signal.SIGTERM
        if code not in (-way, 128 + way):
            tale.wrong.append(f"exit code {code} after {way.name}")
        bar.update()
        if read_record(path.parent / "run").get("status") == "finished":  # it had only to leave
            return _told(path, tale)
    return _finished(path, tale)


def _aimed(path: Path, spot: str) -> Tale:
    """A run that is killed in the middle of what it writes at a spot, and started again."""
    code = run(path, spot)
    tale = Tale(kills=1, starts=1)
    if code != -signal.SIGKILL:
        tale.wrong.append(f"it was to be killed at {spot!r} and ended with {code}")
    return _finished(path, tale)


def _finished(path: Path, tale: Tale) -> Tale:
    """Start a run for the last time."""
    tale.starts += 1
    if code := run(path):
        tale.wrong.append(f"the last start ended with {code}: {_log(path)}")
    return _told(path, tale)


def _log(path: Path) -> str:
    return (path.parent / "log.txt").read_text()[-500:]


def _told(path: Path, tale: Tale) -> Tale:
    """The tale with what the run's own record says of its starts."""
    starts = read_record(path.parent / "run").get("starts", [])
    tale.moved_aside = sum(len(one["damaged"]) for one in starts)
    tale.anew = sum(one["from"] is None for one in starts)
    return tale


# ---------------------------------------------------------------------------------------------- runs


def make_world(folder: Path) -> dict[str, str]:
    """A tiny model with dropout and prompts with three graded responses, by name of the recipe's key."""
    tokenizer, draw = make_tokenizer(), random.Random(1)
    config = make_config(tokenizer)
    config.attention_dropout = 0.1
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    words = sorted(WORDS)

    def rows(n: int) -> Iterable[dict[str, Any]]:
        for number in range(n):
            texts = [" ".join(draw.choices(words, k=draw.randint(3, 9))) for _ in range(4)]
            grades = [draw.randint(1, 9) for _ in range(3)]
            yield {"id": f"row-{number}", "prompt": texts[0], "responses": texts[1:], "scores": grades}

    for name, size in (("data", PROMPTS), ("eval_data", 12)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(size)))
    return {"model": str(folder / "base"), **{n: str(folder / f"{n}.jsonl") for n in ("data", "eval_data")}}


def recipe(world: Mapping[str, str], kind: str, folder: Path, **more: Any) -> Path:
    """The recipe of a run, in the folder that the run and its traces will have."""
    settings = {**COMMON, **KINDS[kind], **more}
    given = dict(world) if "eval_strategy" in settings else {k: v for k, v in world.items() if k != "eval_data"}
    # Of its own, so that nothing is known that a killed run would have had to prepare.
    settings["data_cache"] = str(folder / "cache")
    if settings.get("reference") == "cached":
        settings["reference_cache"] = str(folder / "cache")
    folder.mkdir(parents=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**given, **settings, "output_dir": str(folder / "run")}))
    return path


def start(path: Path, *place: str) -> BaseProcess:
    """``mmpo train`` of a recipe in a process of its own, in which the libraries are loaded already: loading writes
    nothing, and would be where most kills fall."""
    process = get_context("fork").Process(target=_lived, args=(path, *place))
    process.start()
    return process


def _lived(path: Path, *place: str) -> None:
    sys.stdout = sys.stderr = log = (path.parent / "log.txt").open("a", buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    victim.main([str(path), str(path.parent / "witness.jsonl"), *place])


def run(path: Path, *place: str) -> int:
    """The exit code of a start; minus the signal, if it died of one."""
    process = start(path, *place)
    process.join()
    return _code(process)


def _code(process: BaseProcess) -> int:
    assert process.exitcode is not None
    return process.exitcode


def run_alone(path: Path) -> int:
    """The same in an interpreter of its own, from the command line."""
    command = [sys.executable, "-m", "soak.victim", str(path), str(path.parent / "witness.jsonl")]
    with (path.parent / "log.txt").open("ab") as log:
        return subprocess.call(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


# ---------------------------------------------------------------------------------------------- what they leave


def differences(alone: Path, killed: Path) -> list[str]:
    """What a run that was killed left otherwise than one that was left alone: weights (of the result, and of the last
    step), prompts of the steps, log."""
    found = []
    if not (killed / "run" / "trainer_state.json").is_file():
        return ["it left no result"]
    last = max(int(path.name.split("-")[1]) for path in (alone / "run").glob("checkpoint-*"))
    for place in ("run", f"run/checkpoint-{last}"):
        for path in sorted((alone / place).glob("*.safetensors")):
            one, other = load_file(path), load_file(killed / place / path.name)
            if one.keys() != other.keys() or not all(torch.equal(one[key], other[key]) for key in one):
                found.append(f"{place}/{path.name} has other weights")
    if steps(alone) != steps(killed):
        found.append("other prompts in its steps")
    if log_of(alone) != log_of(killed):
        found.append("another log")
    return found


def steps(folder: Path) -> dict[int, list[str]]:
    """The prompts of each step that counts: the last time that it was taken."""
    taken: dict[int, list[str]] = {}
    for line in (folder / "witness.jsonl").read_text().splitlines():
        try:
            one = json.loads(line)
        except ValueError:  # killed while it was written, so it was taken again
            continue
        taken[one["step"]] = one["ids"]
    return taken


def log_of(folder: Path) -> list[dict[str, float]]:
    """The whole log of a run, in its order, without what was measured by the clock."""
    state = json.loads((folder / "run" / "trainer_state.json").read_text())
    clock = ("runtime", "per_second", "total_flos")
    return [{k: v for k, v in row.items() if not k.endswith(clock)} for row in state["log_history"]]


def _summary(tales: Mapping[str, Tale]) -> dict[str, Any]:
    at_random = [tale for name, tale in tales.items() if name not in PLACES]
    return {
        "random_kills": sum(tale.kills for tale in at_random),
        "sigterms": sum(tale.terms for tale in at_random),
        "aimed_kills": sum(tale.kills for name, tale in tales.items() if name in PLACES),
        "aimed_at": [name for name in tales if name in PLACES],
        "starts": sum(tale.starts for tale in tales.values()),
        "starts_from_the_beginning": sum(tale.anew for tale in tales.values()),
        "checkpoints_moved_aside": sum(tale.moved_aside for tale in tales.values()),
        "runs": len(tales),
        "runs_identical": sum(not tale.wrong for tale in tales.values()),
        "wrong": {name: tale.wrong for name, tale in tales.items() if tale.wrong},
    }


def _total(kinds: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    keys = ("random_kills", "sigterms", "aimed_kills", "starts", "checkpoints_moved_aside", "runs", "runs_identical")
    return {key: sum(one[key] for one in kinds.values()) for key in keys}
