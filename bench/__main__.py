"""``python -m bench``: training speed against TRL, both sides in one run, alternating; writes docs/performance.md.

Same model, rows, optimiser, precision (fp32) and batch; no gradient checkpointing; a live reference. DPO on two graded
responses a prompt, and on four: TRL gets the six pairs, as it has no other way to see all comparisons.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
import trl
from datasets import Dataset
from evidence.common import ROOT, machine
from transformers import TrainingArguments

from bench.workload import MAX_LENGTH, policy, rows, tokenizer
from mmpo.batch import Limits
from mmpo.loop import GradedTrainer
from mmpo.methods.policy import dpo
from mmpo.setup import bring_together
from mmpo.types import Datum

REPEATS = 3
PROMPTS_A_STEP, STEPS = 4, 2
COMMON: dict[str, Any] = {
    "learning_rate": 1e-5,
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": not torch.accelerator.is_available(),
    "bf16": False,
    "num_train_epochs": 1,
}


def ours(data: list[dict[str, Any]], folder: str) -> Callable[[], Any]:
    items = [Datum(str(n), r["prompt"], tuple(r["responses"]), tuple(r["scores"])) for n, r in enumerate(data)]
    setup = bring_together(policy(), dpo(), items, tokenizer=tokenizer(), limits=Limits(MAX_LENGTH))
    args = TrainingArguments(folder, per_device_train_batch_size=PROMPTS_A_STEP, **COMMON)
    trainer = GradedTrainer(
        setup.model,
        args,
        method=setup.method,
        reader=setup.reader,
        tokenizer=setup.tokenizer,
        train_dataset=setup.examples,
    )
    return trainer.train


def peer(data: list[dict[str, Any]], folder: str) -> Callable[[], Any]:
    pairs = []
    for row in data:
        for i, j in combinations(range(len(row["responses"])), 2):
            best, rest = (i, j) if row["scores"][i] > row["scores"][j] else (j, i)
            pairs.append(
                {"prompt": row["prompt"], "chosen": row["responses"][best], "rejected": row["responses"][rest]}
            )
    a_prompt = len(pairs) // len(data)
    args = trl.DPOConfig(
        folder,
        per_device_train_batch_size=PROMPTS_A_STEP * a_prompt,
        max_length=MAX_LENGTH,
        gradient_checkpointing=False,
        **COMMON,
    )
    return trl.DPOTrainer(
        policy(), ref_model=policy(), args=args, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer()
    ).train


def seconds(make: Callable[[list[dict[str, Any]], str], Callable[[], Any]], data: list[dict[str, Any]]) -> float:
    """Wall time of the training loop alone."""
    with tempfile.TemporaryDirectory() as folder:
        train = make(data, folder)
        start = time.perf_counter()
        train()
        return time.perf_counter() - start


def compare(responses: int) -> dict[str, Any]:
    """Prompts a second of both sides, warmed up once, then in turn."""
    data = rows(PROMPTS_A_STEP * STEPS, responses)
    times: dict[str, list[float]] = {"mmpo": [], "trl": []}
    for turn in range(REPEATS + 1):
        for name, make in (("mmpo", ours), ("trl", peer)):
            taken = seconds(make, data)
            print(f"K = {responses}, turn {turn}, {name}: {taken:.1f} s")
            if turn:
                times[name].append(taken)
    ratios = [theirs / mine for mine, theirs in zip(times["mmpo"], times["trl"], strict=True)]
    return {
        "responses": responses,
        "prompts_per_second": {name: len(data) / statistics.median(taken) for name, taken in times.items()},
        "ratio": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "seconds": times,
    }


def main() -> None:
    results = [compare(responses) for responses in (2, 4)]
    where = machine()
    record = {"command": "make bench", "machine": where, "results": results}
    (ROOT / "docs" / "performance.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        "# Speed",
        "",
        (__doc__ or "").split("\n", 2)[2].strip(),
        "",
        f"Machine: {where['cores']} cores, {where['torch_threads']} threads, {where['device']}, "
        f"torch {where['versions']['torch']}. "
        f"Command: `make bench`. {REPEATS} turns after one to warm up, {STEPS} steps of {PROMPTS_A_STEP} prompts.",
        "",
        "| responses a prompt | mmpo, prompts/s | TRL, prompts/s | ratio, median [least, most] |",
        "|---|---|---|---|",
    ]
    for result in results:
        speed, ratio = result["prompts_per_second"], result["ratio"]
        lines.append(
            f"| {result['responses']} | {speed['mmpo']:.2f} | {speed['trl']:.2f} | "
            f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] |"
        )
    (ROOT / "docs" / "performance.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines[-len(results) - 2 :]))


main()
