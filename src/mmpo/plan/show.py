"""A plan as text for a terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mmpo.plan.hardware import GIB, counts, named, present
from mmpo.plan.memory import PARTS, SINGLE
from mmpo.plan.planner import Line, Mend, Planner
from mmpo.plan.recipe import plan_for
from mmpo.plan.rows import stated
from mmpo.recipe import Recipe

SAYS = {"alone": "-", "ddp": "ddp", "fsdp2": "fsdp2", "zero2": "zero2", "zero3": "zero3"}


def planned(recipe: Recipe, gpus: str | None, device: str | None, row: str | None, as_json: bool) -> str:
    """What ``mmpo doctor RECIPE --plan`` prints. Raises UserError where something of it cannot be understood."""
    found = present() if device is None else named(device)
    numbers = counts(gpus or ("1" if found.kind == "cpu" else "1,2,8"))
    made = plan_for(recipe, found, None if row is None else stated(row))
    lines = made.lines(numbers)
    mends = [] if lines[0].fits else made.mends(lines[0].devices)
    return json.dumps(record(made, lines, mends), indent=1) if as_json else text(made, lines, mends)


def text(plan: Planner, lines: Sequence[Line], mends: Sequence[Mend]) -> str:
    """All that a plan has to say; ``mends`` belong to the first line."""
    out = [*_about(plan), "", *_table(plan, lines), ""]
    if lines and not lines[0].fits:
        out += _fitting(lines[0].devices, mends)
    return "\n".join([*out, *_notes(plan)])


def record(plan: Planner, lines: Sequence[Line], mends: Sequence[Mend]) -> dict[str, Any]:
    """The same as numbers; all memory in bytes."""
    anatomy, job = plan.job.blueprint.anatomy, plan.job
    return {
        "model": {"name": job.blueprint.name, **asdict(anatomy)},
        "job": {
            "lora": job.blueprint.lora,
            "dtype": job.blueprint.dtype,
            "quantize": job.blueprint.quantize,
            "reference": job.reference,
            "half": job.half,
            "optimizer": job.optimizer,
            "gradient_checkpointing": job.checkpointing is not None,
            "layout": job.layout,
            "micro_batch_tokens": job.micro_batch_tokens,
        },
        "lengths": {"source": plan.lengths.source, "prompts": plan.lengths.prompts},
        "device": asdict(plan.device),
        "lines": [_line(line) for line in lines],
        "mends": [{"changes": mend.changes, "other_result": mend.other_result, **_line(mend.line)} for mend in mends],
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "devices": line.devices,
        "split": line.split,
        "fits": line.fits,
        "memory": {**asdict(line.memory), "total": line.memory.total},
        "seconds": {"low": line.seconds.low, "high": line.seconds.high, **asdict(line.seconds)},
        "prompts": line.prompts,
        "steps": line.steps,
    }


def _about(plan: Planner) -> list[str]:
    job, anatomy = plan.job, plan.job.blueprint.anatomy
    trained = "all trained" if anatomy.trained == anatomy.parameters else f"{anatomy.trained / 1e6:,.1f} M trained"
    computed = f"{job.half} over {job.blueprint.dtype} weights" if job.half else job.blueprint.dtype
    rows = plan.lengths.worst(plan.batch, job.micro_batch_tokens, job.layout)
    tokens = sum(prompt * (1 if job.layout == "shared" else len(r)) + sum(r) for prompt, r in rows)
    return [
        f"model        {anatomy.architecture}, {anatomy.parameters / 1e9:.3g} B parameters, {trained}",
        f"computed in  {computed}; optimizer {job.optimizer}; reference {job.reference or 'none'}",
        f"lengths      {plan.lengths.source}",
        f"micro-batch  the largest has {len(rows)} prompts, {tokens:,} tokens ({job.layout})",
        f"device       {plan.device.name}, {plan.device.memory / GIB:.0f} GiB",
    ]


def _table(plan: Planner, lines: Sequence[Line]) -> list[str]:
    """Memory of one device in GiB, by part, and seconds."""
    heads = ["devices", "split", *PARTS, "total GiB", "fits", "s/step", "prompts/s", "h/epoch"]
    rows = [[*_cells(plan, line)] for line in lines]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (heads, *rows)]


def _cells(plan: Planner, line: Line) -> list[str]:
    low, high = line.seconds.low, line.seconds.high
    epoch = "-" if line.steps is None else between(low * line.steps / 3600, high * line.steps / 3600)
    return [
        str(line.devices),
        SAYS[line.split],
        *(f"{getattr(line.memory, part) / GIB:.1f}" for part in PARTS),
        f"{line.memory.total / GIB:.1f}",
        "yes" if line.fits else "no",
        between(low, high),
        between(line.prompts / high, line.prompts / low),
        epoch,
    ]


def between(low: float, high: float) -> str:
    """A range in two digits each."""
    return f"{_two(low)}-{_two(high)}"


def _two(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _fitting(devices: int, mends: Sequence[Mend]) -> list[str]:
    on = "one device" if devices == 1 else f"{devices} devices"
    if not mends:
        return [f"no change of settings makes it fit on {on}; take more of them, or larger ones", ""]
    said = [f"what makes it fit on {on}, each line by itself:"]
    for mend in mends:
        other = " (trains something else)" if mend.other_result else ""
        total, took = mend.line.memory.total / GIB, between(mend.line.seconds.low, mend.line.seconds.high)
        said.append(f"  {'; '.join(mend.changes)}{other}: {total:.1f} GiB, {took} s/step")
    return [*said, ""]


def _notes(plan: Planner) -> list[str]:
    low, high = plan.device.busy if plan.job.width < SINGLE else plan.device.busy_single
    return [
        f"Time assumes that the device does {low:.0%} to {high:.0%} of the products it could; what a step sends hides "
        "behind them at best.",
        "Memory is that of the largest micro-batch. docs/sizes.md tells how both were checked, and on what.",
    ]
