"""Accelerators: memory, speed and links, as their makers state them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmpo.errors import UserError, nearest
from mmpo.plan.rate import rate

GIB = 2**30

NODE = 8
"""Accelerators of one machine, which share its fast links."""


@dataclass(frozen=True)
class Device:
    """One accelerator, or a CPU.

    Attributes:
        name: as a user writes it.
        memory: bytes that a process can have.
        half, single: FLOPs a second of dense matrix products in bf16 and in fp32.
        bandwidth: bytes a second to and from its memory.
        link, network: bytes a second that it sends to another of its machine, and of another machine.
        kind: "cuda" or "cpu", as torch says it (a GPU of AMD is "cuda" too).
        busy, busy_single: the least and the most part of ``half`` and of ``single`` that training reaches.
        overhead: bytes that a process takes there before its first tensor.
        spread: what the allocator holds beside the tensors of a micro-batch, as a part of them.
    """

    name: str
    memory: float
    half: float
    single: float
    bandwidth: float
    link: float
    network: float
    kind: str = "cuda"
    busy: tuple[float, float] = (0.3, 0.5)
    busy_single: tuple[float, float] = (0.3, 0.5)
    overhead: float = 0.8 * GIB
    spread: float = 0.08


DEVICES = {
    device.name: device
    for device in (
        Device("a100-40", 39.4 * GIB, 312e12, 19.5e12, 1.56e12, 300e9, 25e9),
        Device("a100-80", 79.1 * GIB, 312e12, 19.5e12, 2.04e12, 300e9, 25e9),
        Device("h100", 79.2 * GIB, 989e12, 67e12, 3.35e12, 450e9, 50e9),
        Device("h200", 139.8 * GIB, 989e12, 67e12, 4.8e12, 450e9, 50e9),
        Device("l40s", 44.4 * GIB, 362e12, 91.6e12, 0.864e12, 32e9, 25e9),
        Device("4090", 23.5 * GIB, 165e12, 82.6e12, 1.01e12, 32e9, 12.5e9),
        Device("mi300x", 191.5 * GIB, 1307e12, 163e12, 5.3e12, 448e9, 50e9),
    )
}
"""What the makers state of dense products with sums in fp32. Memory is what a process finds free; links are one way.
The network is 400 Gbit/s an accelerator (200 with an A100 or L40S, 100 with a 4090), as such machines mostly have."""

CPU_BUSY, CPU_BUSY_SINGLE = (0.12, 0.32), (0.55, 0.75)
"""Measured (docs/performance.md)."""

CPU_SLACK = (0.75 * GIB, 0.15)
"""Bytes of libraries, and what glibc holds beside the tensors of a micro-batch, as measured here."""


def named(name: str) -> Device:
    """The device of this name. Raises UserError for one that is not in the table."""
    if name.lower() not in DEVICES:
        raise UserError(f"--plan-device is {name!r}. {nearest(name.lower(), DEVICES)}")
    return DEVICES[name.lower()]


def present() -> Device:
    """The device of this machine: of the table where it is there, else measured, which takes a second or two."""
    if not torch.cuda.is_available():
        memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        links = (10e9, 10e9, 1e9)
        return Device("this CPU", memory, *_rates("cpu"), *links, "cpu", CPU_BUSY, CPU_BUSY_SINGLE, *CPU_SLACK)
    said, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    marks = [name for name in DEVICES if name.upper() in said]
    if "A100" in said:
        marks = ["a100-80" if memory > 60 * GIB else "a100-40"]
    if marks:
        return DEVICES[marks[0]]
    return Device(said, 0.98 * memory, *_rates("cuda"), 1e12, 32e9, 12.5e9)


def _rates(device: str) -> tuple[float, float]:
    """FLOPs a second of a large product in bf16 and in fp32."""
    n = 2048 if device == "cpu" else 8192
    half, single = (rate(n, n, n, dtype, device, 0.5) for dtype in (torch.bfloat16, torch.float32))
    return half, single


def counts(text: str) -> Sequence[int]:
    """``1,2,8`` as numbers of devices. Raises UserError for what is none."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise UserError(f"--plan-gpus is {text!r}; give numbers of GPUs, such as 1,2,8,64")
    return found
