"""The two sides, each trained by its own Trainer in a process of its own, with the clock outside of both."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset, disable_progress_bars
from transformers import TrainerCallback, TrainingArguments

from bench.work import peak_flops, step_flops
from bench.workload import Side, Workload, compared
from mmpo.batch import Limits
from mmpo.methods.policy import dpo, mmpo
from mmpo.methods.reward import bradley_terry
from mmpo.plan.rate import synchronize
from mmpo.plan.rows import Row
from mmpo.run.setup import bring_together
from mmpo.types import Datum

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def arguments(precision: str) -> dict[str, Any]:
    """What both sides are told alike."""
    return {
        "learning_rate": 1e-5,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "bf16": precision == "bf16",
        "use_cpu": DEVICE == "cpu",
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


# ---------------------------------------------------------------------------------------------- the clock


class Watch(TrainerCallback):
    """Times each step from the end of the one before, and sees what the policy reads.

    The time so holds all that a step costs: batching, forward, backward, the optimiser and the loop itself. Where the
    queries of the first layer come from, it counts the positions read (padding and repeated prompts too) and notes the
    precision of the product.
    """

    def __init__(self, warm: int) -> None:
        self.warm, self.ends, self.positions = warm, [0.0], [0]
        self.dtypes: set[torch.dtype] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        (first,) = [m for name, m in more["model"].named_modules() if name.endswith("layers.0.self_attn.q_proj")]
        first.register_forward_hook(self._saw)

    def _saw(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
        self.positions[-1] += output.numel() // output.shape[-1]
        self.dtypes.add(output.dtype)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        synchronize(DEVICE)
        self.ends.append(time.perf_counter())
        self.positions.append(0)

    def measured(self, precision: str) -> dict[str, Any]:
        if self.dtypes != {DTYPES[precision]}:
            raise RuntimeError(f"asked for {precision}, but the model ran in {self.dtypes}")
        ends = self.ends[self.warm :]
        return {
            "seconds": [after - before for before, after in pairwise(ends)],
            "positions": sum(self.positions[self.warm : -1]),
        }


def memory_in_use() -> float:
    """MiB held now: allocated on a GPU, resident on a CPU (Linux)."""
    return torch.cuda.memory_allocated() / 2**20 if DEVICE == "cuda" else _resident("VmRSS")


def memory_peak() -> float:
    """MiB at most since ``forget_peak``."""
    return torch.cuda.max_memory_allocated() / 2**20 if DEVICE == "cuda" else _resident("VmHWM")


def forget_peak() -> None:
    """What set-up took at its height is not what training takes."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _resident(key: str) -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) / 2**10


# ---------------------------------------------------------------------------------------------- the sides


def ours(workload: Workload, side: Side, data: list[Datum], precision: str, folder: str, watch: Watch) -> Any:
    """Our trainer on the rows as they stand."""
    args = TrainingArguments(folder, per_device_train_batch_size=side.prompts, **arguments(precision))
    setup = bring_together(
        workload.model(),
        dpo() if workload.task == "policy" else bradley_terry(),
        data,
        tokenizer=workload.tokenizer(),
        limits=Limits(workload.max_length),
        args=args,
        layout=side.layout,
        reference="cached" if workload.cached else None,
        reference_cache=Path(folder) / "reference" if workload.cached else None,
    )
    return setup.trainer(args, callbacks=[watch])


def as_pairs(data: Sequence[Datum]) -> list[dict[str, Any]]:
    """Every comparison as a pair, the way a trainer on pairs must be given them."""
    return [
        {"prompt": d.prompt, "chosen": d.responses[i], "rejected": d.responses[j]} for d in data for i, j in compared(d)
    ]


def peer(workload: Workload, side: Side, pairs: list[dict[str, Any]], precision: str, folder: str, watch: Watch) -> Any:
    """TRL's trainer on pairs."""
    a_step = side.pairs or side.prompts * side.responses * (side.responses - 1) // 2
    common = {
        **arguments(precision),
        "per_device_train_batch_size": a_step // side.pieces,
        "gradient_accumulation_steps": side.pieces,
        "max_length": workload.max_length,
    }
    given = {
        "train_dataset": Dataset.from_list(pairs),
        "processing_class": workload.tokenizer(),
        "callbacks": [watch],
    }
    if workload.task == "reward":
        return trl.RewardTrainer(workload.model(), args=trl.RewardConfig(folder, **common), **given)
    args = trl.DPOConfig(folder, precompute_ref_log_probs=workload.cached, **common)
    reference = None if workload.cached else workload.model()
    return trl.DPOTrainer(workload.model(), ref_model=reference, args=args, **given)


def sampled(data: Sequence[Datum], side: Side, warm: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Pairs to warm up, and pairs to time, at random from all of them."""
    pairs = as_pairs(data)
    random.Random(0).shuffle(pairs)
    a_step = int(side.pairs or 0)
    return pairs[: a_step * warm], pairs[a_step * warm : a_step * (warm + side.steps)]


def sequences(trainer: Any, peer: bool) -> list[tuple[int, ...]]:
    """The distinct token sequences that a trainer was given, prompt and response together."""
    if not peer:
        every = [e.encoded.prompt + response for e in trainer.train_dataset for response in e.encoded.responses]
    else:
        rows = list(trainer.train_dataset)
        opening = [row.get("prompt_ids") or [] for row in rows]
        every = [
            (*o, *row[key]) for o, row in zip(opening, rows, strict=True) for key in ("chosen_ids", "rejected_ids")
        ]
    return sorted({tuple(ids) for ids in every})


def lengths_of(examples: Sequence[Any]) -> list[Row]:
    return [(len(e.encoded.prompt), [len(response) for response in e.encoded.responses]) for e in examples]


def measure(workload: Workload, side: Side, precision: str) -> dict[str, Any]:
    """One side, set up, warmed up and timed."""
    disable_progress_bars()
    warm, timed = workload.rows(side)
    watch = Watch(workload.warm)
    with tempfile.TemporaryDirectory() as folder:
        if side.peer:
            first, then = sampled(timed, side, workload.warm) if side.pairs else (as_pairs(warm), as_pairs(timed))
            trainer = peer(workload, side, first + then * side.repeats, precision, folder, watch)
            count = {"pairs": len(then) * side.repeats}
        else:
            trainer = ours(workload, side, [*warm, *timed * side.repeats], precision, folder, watch)
            rows = lengths_of(trainer.train_dataset[len(warm) :])
            count = {
                "pairs": sum(len(compared(d)) for d in timed) * side.repeats,
                "tokens": sum(prompt + sum(responses) for prompt, responses in rows),
                "flops": step_flops(
                    workload.shape.config,
                    rows,
                    policy=workload.task == "policy",
                    live_reference=workload.task == "policy" and not workload.cached,
                ),
            }
        seen = sequences(trainer, side.peer)
        forget_peak()
        before = memory_in_use()
        trainer.train()
    return {
        **count,
        **({} if side.pairs else {"prompts": len(timed) * side.repeats}),
        **watch.measured(precision),
        "sequences": [len(seen), sum(map(len, seen))],
        "memory": {"before": before, "peak": max(before, memory_peak())},
    }


def run_again(workload: Workload, side: Side, precision: str) -> dict[str, Any]:
    """Two runs on one folder of reference log-probs, with other gamma and beta: what each read without gradient.

    ``passes`` are forward passes, seen where tokens become vectors, whichever copy of the model reads them, in set-up
    and in training. A trial on a few random tokens, less than the shortest prompt, is no reading of the reference.
    ``computed`` are the responses that the run says it computed, ``seconds`` the time of its set-up.
    """
    _, timed = workload.rows(side)
    shortest = min(len(str(datum.prompt).split()) for datum in timed)
    out: dict[str, list[Any]] = {"passes": [], "computed": [], "seconds": []}

    def saw(module: Any, inputs: Any) -> None:
        if isinstance(module, torch.nn.Embedding) and not torch.is_grad_enabled():
            out["passes"][-1] += inputs[0].numel() >= shortest

    hook = torch.nn.modules.module.register_module_forward_pre_hook(saw)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(folder, per_device_train_batch_size=side.prompts, **arguments(precision))
        for method in (mmpo(gamma=2.2, beta=0.1), mmpo(gamma=1.1, beta=0.05)):
            out["passes"].append(0)
            start = time.perf_counter()
            setup = bring_together(
                workload.model(),
                method,
                timed,
                tokenizer=workload.tokenizer(),
                limits=Limits(workload.max_length),
                args=args,
                reference="cached",
                reference_cache=Path(folder) / "reference",
            )
            out["seconds"].append(time.perf_counter() - start)
            out["computed"].append(setup.record["reference_cache"]["computed"])
            setup.trainer(args).train()
    hook.remove()
    return out


def machine_peak(workload: Workload, precision: str) -> dict[str, Any]:
    return {"flops": peak_flops(workload.shape.config, DTYPES[precision], DEVICE)}


def run_side(workload: Workload, name: str, precision: str) -> dict[str, Any]:
    """What the process of one side is for."""
    if name == "peak":
        return machine_peak(workload, precision)
    side = workload.sides[name]
    return (run_again if workload.measure == "again" else measure)(workload, side, precision)
