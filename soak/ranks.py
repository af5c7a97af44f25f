"""Many processes train like one: the same curve, checkpoints for any number of them, a lost process."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedTokenizerFast,
    set_seed,
)

from soak.common import ROOT, write

WORDS = 320
PROMPTS_A_STEP = 8


def world(folder: Path, prompts: int = 45) -> Path:
    """Tiny models with their tokenizer, and graded rows of unlike length."""
    draw = random.Random(1)

    def text() -> str:
        return " ".join(f"w{draw.randrange(3, WORDS)}" for _ in range(draw.randint(2, 30)))

    def row() -> dict[str, Any]:
        k = draw.randint(2, 4)
        grades = [round(draw.random(), 3) for _ in range(k)]
        return {"prompt": text() + " ", "responses": [text() for _ in range(k)], "scores": grades}

    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{n}": n for n in range(3, WORDS)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    for name, tied, kind in (
        ("policy", False, AutoModelForCausalLM),
        ("tied", True, AutoModelForCausalLM),
        ("reward", False, AutoModelForSequenceClassification),
    ):
        set_seed(5)
        config = LlamaConfig(
            vocab_size=WORDS,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            num_labels=1,
        )
        kind.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name, count in (("rows", prompts), ("held_out", 11)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row()) + "\n" for _ in range(count)))
    return folder


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


CASES: dict[str, dict[str, Any]] = {
    "policy, shared rows, reference copied": {},
    "policy, separate rows, reference cached": {"layout": "separate", "reference": "cached"},
    "policy, padded rows": {"layout": "padded"},
    "policy, tied weights, accumulated": {"model": "tied", "accumulation": 2},
    "policy, LoRA": {"lora": {"r": 4}},
    "reward model": {"model": "reward", "method": {"name": "mmpo_reward", "gamma": 2.2}},
}
SIZES = (2, 4)
STEPS = 50


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = world(Path(folder))
        curves = {name: compared(place, name, case) for name, case in tqdm(CASES.items(), desc="curves")}
        resumed = {
            f"{kind}: {before} -> {after}": resumed_gap(place, before, after, kind)
            for kind in ("DDP", "FSDP2")
            for before, after in ((2, 4), (2, 1), (4, 2))
            if kind == "DDP" or after > 1
        }
        lost = {f"{n} processes on {machines} machines": lost_one(place, n, machines) for n, machines in LOST}
    write(
        "ranks",
        {
            "steps": STEPS,
            "largest difference from one process": curves,
            "largest difference after going on with another number of processes": resumed,
            "one process killed": lost,
        },
    )


def compared(place: Path, name: str, case: dict[str, Any]) -> dict[str, dict[str, float]]:
    """How far the curves of several processes are from that of one."""
    keys = {**case, **({"model": str(place / case["model"])} if "model" in case else {})}
    slug = re.sub(r"\W+", "-", name)
    alone = trained(recipe(place, f"{slug}-1", 1, STEPS, **keys), 1)
    found = {}
    for n in SIZES:
        for kind in ("DDP", "FSDP2"):
            fsdp: dict[str, Any] = {"fsdp": True} if kind == "FSDP2" else {}
            several = trained(recipe(place, f"{slug}-{kind}-{n}", n, STEPS, **keys, **fsdp), n)
            found[f"{kind}, {n} processes"] = gaps(alone, several)
    return found


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


def resumed_gap(place: Path, before: int, after: int, kind: str) -> dict[str, float]:
    """Stop a run half-way, go on with another number of processes, and hold it against the run that was not stopped."""
    name, half = f"resumed-{kind}-{before}-{after}", STEPS // 2
    keys: dict[str, Any] = {"evaluate": False, "save_strategy": "steps", "save_steps": half}
    keys |= {"fsdp": True} if kind == "FSDP2" else {}
    whole = trained(recipe(place, name, before, STEPS, **keys), before)
    folder = place / "runs" / name
    for path in folder.iterdir():
        if path.name not in (f"checkpoint-{half}", "run.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "started"}))
    return gaps(whole, trained(recipe(place, name, after, STEPS, **keys), after))


LOST = ((2, 1), (4, 1), (4, 2))
"""Processes, and machines: launchers of their own on this one."""


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
    return {
        "seconds until all had left": round(seconds, 1),
        "exit codes": [launcher.returncode for launcher in started],
        "times it was named": sum(text.count(line) for text in told),
        "exit codes of the restart": [launcher.returncode for launcher in again],
        "steps in the end": len(curve(made)["loss"]) if not any(p.returncode for p in again) else said[-1][-500:],
    }


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
