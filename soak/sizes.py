"""The table of docs/sizes.md: memory and time of policies of 1 B to 70 B on 1 to 64 GPUs, by formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tqdm.auto import tqdm
from transformers import LlamaConfig

from mmpo.files import write_whole
from mmpo.plan import DEVICES, Line, Planner
from mmpo.plan.blueprint import Blueprint
from mmpo.plan.hardware import GIB
from mmpo.plan.memory import Job
from mmpo.plan.rows import Lengths, Row
from mmpo.plan.show import between
from soak.common import ROOT


def llama(hidden: int, inner: int, layers: int, heads: int, vocabulary: int, tied: bool = False) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        tie_word_embeddings=tied,
    )


SIZES = {
    "1 B": llama(2048, 8192, 16, 32, 128_256, tied=True),
    "8 B": llama(4096, 14_336, 32, 32, 128_256),
    "14 B": llama(5120, 13_824, 48, 40, 152_064),
    "32 B": llama(5120, 27_648, 64, 40, 152_064),
    "70 B": llama(8192, 28_672, 80, 64, 128_256),
}
"""The shapes of Llama 3.2 1B, Llama 3.1 8B, Qwen2.5 14B and 32B, Llama 3.1 70B."""

COUNTS = (1, 2, 8, 64)
ROW_OF_PAGE: Row = (300, (250,) * 4)
PAGE = ROOT / "docs" / "sizes.md"
MARKS = ("<!-- sizes -->", "<!-- end of sizes -->")


def line(name: str, adapter: bool) -> str:
    """A row of the table: for each number of GPUs the simplest of the fast ways that fit, or the least memory."""
    blueprint = Blueprint(name, SIZES[name])
    if adapter:
        blueprint = replace(blueprint, lora={"r": 16}, dtype="bfloat16")
    job = Job(blueprint, "adapter" if adapter else "cached", "bfloat16", "adamw_torch_fused", {})
    plan = Planner(job, Lengths((ROW_OF_PAGE,), "stated"), DEVICES["h100"])
    cells = [cell(plan.lines([count])) for count in COUNTS]
    return f"| {name} | {'LoRA' if adapter else 'all'} | {' | '.join(cells)} |"


def cell(lines: Sequence[Line]) -> str:
    fitting = [line for line in lines if line.fits]
    if not fitting:
        return f"no: {min(line.memory.total for line in lines) / GIB:,.0f} GiB"
    soon = min(line.seconds.high for line in fitting)
    best = next(line for line in fitting if line.seconds.high <= 1.05 * soon)
    how = "" if best.split == "alone" else f" {best.split},"
    return f"{best.memory.total / GIB:.0f} GiB,{how} {between(best.seconds.low, best.seconds.high)} s"


def table() -> str:
    heads = " | ".join(f"{count} GPU{'s' * (count > 1)}" for count in COUNTS)
    rows = [line(name, adapter) for name in tqdm(SIZES, desc="sizes") for adapter in (False, True)]
    return "\n".join([f"| policy | trained | {heads} |", "|---|---|" + "---|" * len(COUNTS), *rows])


def put(marks: tuple[str, str], text: str) -> None:
    """Text between two marks of docs/sizes.md."""
    before, rest = PAGE.read_text(encoding="utf-8").split(marks[0])
    _, after = rest.split(marks[1])
    write_whole(PAGE, f"{before}{marks[0]}\n{text}\n{marks[1]}{after}")


def write_table() -> None:
    """Put the table into docs/sizes.md."""
    put(MARKS, table())
