"""Main memory, for training on a CPU."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks for the next request; elsewhere do nothing.

    Every training step asks for the blocks that the step before gave back. By default they go back to the kernel in
    between, and the clearing of fresh pages then takes up to a quarter of a step on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # Old releases take no more than 32 MiB, and answer 0 to what they refuse.
    if mallopt is not None and (mallopt(_M_MMAP_THRESHOLD, 2**31 - 1) or mallopt(_M_MMAP_THRESHOLD, 2**25)):
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
