"""Memory as ``mmpo doctor --plan`` computes it, beside what training on this machine takes."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench.workload import SPECIAL, word_tokenizer
from tqdm.auto import tqdm
from transformers import Qwen2Config, TrainingArguments

from mmpo.batch import Limits
from mmpo.methods import build
from mmpo.models import head
from mmpo.plan import Planner
from mmpo.plan.blueprint import Blueprint
from mmpo.plan.hardware import Device
from mmpo.plan.memory import Job
from mmpo.plan.rows import Lengths, Row
from mmpo.plan.work import load
from mmpo.run.setup import bring_together
from mmpo.types import Datum
from soak.common import ROOT, write
from soak.sizes import put, write_table

MIB = 2**20


@dataclass(frozen=True)
class Case:
    """A setting that is planned and run. Its shape is (hidden, layers, heads, key heads, intermediate)."""

    name: str
    shape: tuple[int, int, int, int, int] = (384, 6, 6, 2, 1024)
    vocabulary: int = 16_000
    task: str = "policy"
    row: Row = (120, (80, 100))
    prompts: int = 4
    micro_batch_tokens: int = 700
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
        return Blueprint(self.name, self.config, self.task, self.dtype, self.lora)

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


def trained(case: Case, steps: int) -> None:
    """Train; the peak of the process counts from the first step on."""
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
        trainer = setup.trainer(args)
        forget_peak()
        trainer.train()


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
    """What the process took beside its libraries."""
    warm_up(case)
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    trained(case, 2)
    return {"process": resident("VmHWM") - before, "libraries": before}


# ---------------------------------------------------------------------------------------------- planned


NOTHING = Device("tensors alone", 0, 1, 1, 1, 1, 1, kind="cpu", overhead=0.0, spread=0.0)


def planner_of(case: Case, device: Device) -> Planner:
    return Planner(case.job, Lengths((case.row,), "stated", case.prompts), device, case.prompts)


def spare(case: Case) -> float:
    """Bytes of the chunk of logits that are reserved on a CPU and never written to: no memory of the machine."""
    if case.task == "reward" or case.layout == "padded":
        return 0.0
    rows = Lengths((case.row,), "stated").worst(case.prompts, case.micro_batch_tokens, case.job.layout)
    written = case.vocabulary * load(rows, case.job.layout).scored * (2 if case.bf16 else 4)
    # The trial of the layout reads in the dtype of the weights, and what it reserved stays.
    return head.CHUNK_BYTES["cpu"] / (1 if case.dtype == "float32" else 2) - written


def compared(case: Case, found: Mapping[str, Any]) -> dict[str, Any]:
    """Planned beside measured."""
    plan = planner_of(case, NOTHING)
    parts = plan.line(1, "alone").memory
    measured = found["tensors"] - spare(case)
    return {
        "case": asdict(case),
        "planned": {**asdict(parts), "total": parts.total},
        "tensors": measured,
        "error": parts.total / measured - 1,
        **{name: found[name] for name in ("process", "libraries") if name in found},
    }


BASE = Case("pairs")
CASES = (
    BASE,
    replace(BASE, name="pairs, bf16", bf16=True),
    replace(BASE, name="four responses, separate", row=(100, (90, 40, 60, 80)), layout="separate", prompts=3),
    replace(BASE, name="padded", row=(100, (90, 40)), layout="padded"),
    replace(BASE, name="long prompts", row=(600, (60, 60)), prompts=2),
    replace(BASE, name="gradient checkpointing, bf16", checkpointing=True, bf16=True),
    replace(BASE, name="LoRA", lora={"r": 16}, reference="adapter"),
    replace(BASE, name="LoRA on a bf16 base", lora={"r": 16}, reference="adapter", dtype="bfloat16", bf16=True),
    replace(BASE, name="one micro-batch, cached reference", prompts=2, reference="cached"),
    replace(BASE, name="Adafactor", optimizer="adafactor"),
    replace(BASE, name="reward model", task="reward"),
    replace(BASE, name="wide", shape=(768, 3, 12, 12, 2048), reference="cached"),
    replace(BASE, name="deep", shape=(256, 20, 4, 2, 704), reference="cached", checkpointing=True),
)
"""Nothing in the count of tensors is fitted, so that all of them are held out."""

PROCESSES = (BASE, CASES[1], CASES[6])
"""What the whole process takes is measured on these."""


# ---------------------------------------------------------------------------------------------- all of it


def main() -> None:
    """Measure all cases, write docs/reliability/plan.json and the table of docs/sizes.md."""
    write_table()
    found = {case.name: dict(one) for case, one in zip(CASES, in_a_process("tensors", CASES), strict=True)}
    for case in tqdm(PROCESSES, desc="processes"):
        found[case.name] |= in_a_process("process", [case])[0]
    rows = [compared(case, found[case.name]) for case in CASES]
    errors = [abs(row["error"]) for row in rows]
    write("plan", {"rows": rows, "worst_error": max(errors), "median_error": median(errors)})
    put(("<!-- checks -->", "<!-- end of checks -->"), told(rows))


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """What was measured, for the page."""
    worst = max(abs(row["error"]) for row in rows)
    lines = [
        "Small models were trained for real on a CPU, and the most bytes that tensors took at once, as torch reports",
        f"each allocation to its profiler, were compared with the plan: all {len(rows)} within {worst:.1%}. Nothing of",
        "it was fitted. In MiB:",
        "",
        "| | planned | measured | error |",
        "|---|---|---|---|",
    ]
    for row in rows:
        planned = row["planned"]["total"] / MIB
        lines.append(f"| {row['case']['name']} | {planned:,.0f} | {row['tensors'] / MIB:,.0f} | {row['error']:+.1%} |")
    beside = [
        (row["case"]["name"], (row["process"] - row["planned"]["total"]) / MIB) for row in rows if "process" in row
    ]
    whole = ", ".join(f"{extra:,.0f} MiB ({name})" for name, extra in beside)
    return "\n".join(
        [*lines, "", f"The process took more than its tensors: {whole}. On a CPU the slack stands for that."]
    )


# ---------------------------------------------------------------------------------------------- processes


def in_a_process(what: str, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """``tensors`` or ``process`` of these cases, in a process where nothing else has run."""
    command = [sys.executable, "-m", "soak.plan", what, json.dumps([asdict(case) for case in cases])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def case_of(given: Mapping[str, Any]) -> Case:
    """A case from JSON."""
    prompt, responses = given["row"]
    return Case(**{**given, "shape": tuple(given["shape"]), "row": (prompt, tuple(responses))})


if __name__ == "__main__":
    ask = {"tensors": tensors, "process": process}[sys.argv[1]]
    print(json.dumps([ask(case_of(given)) for given in tqdm(json.loads(sys.argv[2]), desc=sys.argv[1])]))
