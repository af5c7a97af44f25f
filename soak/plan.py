"""Memory and time as ``mmpo doctor --plan`` computes them, beside what training on this machine takes."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from bench.workload import SPECIAL, word_tokenizer
from transformers import Qwen2Config, TrainerCallback, TrainingArguments

from mmpo.batch import Limits
from mmpo.methods import build
from mmpo.models import head
from mmpo.plan.blueprint import Blueprint
from mmpo.plan.hardware import Device
from mmpo.plan.memory import Job, memory
from mmpo.plan.rows import Lengths, Row
from mmpo.plan.trace import footprint
from mmpo.setup import bring_together
from mmpo.types import Datum
from soak.common import ROOT

MIB = 2**20
VOCABULARY = 32_000


@dataclass(frozen=True)
class Case:
    """A setting that is planned and run. Its shape is (hidden, layers, heads, key heads, intermediate)."""

    name: str
    shape: tuple[int, int, int, int, int] = (512, 8, 8, 2, 1408)
    vocabulary: int = VOCABULARY
    task: str = "policy"
    row: Row = (150, (130, 130))
    prompts: int = 4
    micro_batch_tokens: int = 1024
    layout: str = "shared"
    bf16: bool = False
    dtype: str = "float32"
    reference: str | None = "copy"
    lora: Mapping[str, Any] | None = None
    checkpointing: bool = False
    optimizer: str = "adamw_torch"

    @property
    def config(self) -> Qwen2Config:
        hidden, layers, heads, key_heads, inner = self.shape
        return Qwen2Config(
            vocab_size=self.vocabulary,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            tie_word_embeddings=False,
            pad_token_id=SPECIAL["<pad>"],
            eos_token_id=SPECIAL["<eos>"],
            bos_token_id=None,
        )

    @property
    def blueprint(self) -> Blueprint:
        return Blueprint(self.name, self.config, self.task, self.dtype, self.lora)  # type: ignore[arg-type]

    @property
    def job(self) -> Job:
        return Job(
            self.blueprint,
            reference=self.reference if self.task == "policy" else None,
            half="bfloat16" if self.bf16 else None,
            optimizer=self.optimizer,
            checkpointing={} if self.checkpointing else None,
            layout=self.layout,  # type: ignore[arg-type]
            micro_batch_tokens=self.micro_batch_tokens,
        )


# ---------------------------------------------------------------------------------------------- measured


def data(case: Case) -> list[Datum]:
    """Prompts of exactly these lengths; a response ends with one token of its own."""

    def words(n: int, seed: int) -> str:
        draw = torch.Generator().manual_seed(seed)
        return " ".join(f"w{k}" for k in torch.randint(len(SPECIAL), case.vocabulary, (n,), generator=draw).tolist())

    prompt, responses = case.row
    return [
        Datum(
            str(n),
            words(prompt, 100 * n) + " ",
            tuple(words(r - 1, 100 * n + i) for i, r in enumerate(responses, 1)),
            tuple(float(i) for i in range(len(responses))),
        )
        for n in range(case.prompts)
    ]


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends = [time.perf_counter()]

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.ends.append(time.perf_counter())


def trained(case: Case, steps: int) -> list[float]:
    """Train, and return the seconds of the steps after the first."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            per_device_train_batch_size=case.prompts,
            max_steps=steps,
            learning_rate=1e-5,
            bf16=case.bf16,
            gradient_checkpointing=case.checkpointing,
            optim=case.optimizer,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        torch.manual_seed(0)
        setup = bring_together(
            replace(case.blueprint, lora=None).build(),
            build("mmpo" if case.task == "policy" else "mmpo_reward", gamma=1.0),
            data(case),
            tokenizer=word_tokenizer([f"w{n}" for n in range(len(SPECIAL), case.vocabulary)]),
            lora=case.lora,
            reference=case.job.reference,
            reference_cache=Path(folder) / "cache" if case.job.reference == "cached" else None,
            layout=case.layout,  # type: ignore[arg-type]
            micro_batch_tokens=case.micro_batch_tokens,
            limits=Limits(2 * (case.row[0] + max(case.row[1]))),
            args=args,
        )
        trainer = setup.trainer(args, [clock])
        forget_peak()
        trainer.train()
    return [after - before for before, after in pairwise(clock.ends[1:])]


def resident(key: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:")]
    return 1024 * int(line.split()[1])


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def warm_up(case: Case) -> None:
    """A tiny run of the same kind, which loads the libraries."""
    trained(replace(case, shape=(32, 2, 2, 1, 64), vocabulary=200, row=(8, (4,) * len(case.row[1])), prompts=2), 2)
    head.forget()
    gc.collect()


def tensors(case: Case) -> dict[str, Any]:
    """The most bytes that tensors took at once, as torch reports each allocation to its profiler."""
    warm_up(case)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        trained(case, 2)
    found = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    found.sort(key=lambda event: event.start_ns())
    return {"tensors": max(accumulate(event.nbytes() for event in found))}


def process(case: Case) -> dict[str, Any]:
    """What the process took beside its libraries, and the fastest step."""
    warm_up(case)
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    seconds = trained(case, 4)
    return {"process": resident("VmHWM") - before, "seconds": min(seconds), "libraries": before}


def in_a_process(what: str, case: Case) -> dict[str, Any]:
    """``tensors`` or ``process``, where nothing else has run."""
    command = [sys.executable, "-m", "soak.plan", what, json.dumps(asdict(case))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{case.name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------------------------------------- planned


NOTHING = Device("tensors alone", 0, 1, 1, 1, 1, 1, kind="cpu", overhead=0.0, spread=0.0)


def planned(case: Case) -> dict[str, float]:
    """The tensors of the same, part by part, in bytes."""
    lengths = Lengths((case.row,), "stated", case.prompts)
    job = case.job
    (step,) = lengths.steps(case.prompts, case.micro_batch_tokens, job.layout)
    found = footprint(
        case.blueprint,
        lengths.worst(case.prompts, case.micro_batch_tokens, job.layout),
        layout=job.layout,
        device="cpu",
        autocast=job.autocast,
        checkpointing=job.checkpointing,
    )
    parts = memory(job, found, NOTHING, one=len(step) == 1)
    return {**asdict(parts), "total": parts.total}


def case_of(given: Mapping[str, Any]) -> Case:
    """A case from JSON."""
    prompt, responses = given["row"]
    return Case(**{**given, "shape": tuple(given["shape"]), "row": (prompt, tuple(responses))})


if __name__ == "__main__":
    print(json.dumps({"tensors": tensors, "process": process}[sys.argv[1]](case_of(json.loads(sys.argv[2])))))
