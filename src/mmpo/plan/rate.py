"""How fast this machine multiplies matrices."""

from __future__ import annotations

import time

import torch


def rate(m: int, k: int, n: int, dtype: torch.dtype, device: str, seconds: float) -> float:
    """FLOPs a second of the product of [m, k] and [k, n], the best of several bursts that take so many seconds."""
    a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype)
    out = torch.empty(m, n, device=device, dtype=dtype)

    def burst(times: int) -> float:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(times):
            torch.mm(a, b, out=out)
        synchronize(device)
        return (time.perf_counter() - start) / times

    once = min(burst(1) for _ in range(3))
    times = max(1, round(seconds / 4 / once))
    return 2 * m * k * n / min(burst(times) for _ in range(4))


def synchronize(device: str) -> None:
    """Wait until the device has done all it was asked."""
    if device == "cuda":
        torch.cuda.synchronize()
