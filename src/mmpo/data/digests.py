"""Digests that stand for texts and data, so that millions of them can be compared in little memory."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[Any]
"""[n] of 16 bytes each, of dtype V16."""


def digest(content: bytes | str) -> bytes:
    """16 bytes that stand for exactly this text, or for exactly these bytes."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    return blake2b(content, digest_size=16).digest()


def joined(digests: bytes | bytearray) -> Digests:
    """Digests that were written one after the other, [n]."""
    return np.frombuffer(digests, "V16")


def firsts(digests: Digests) -> NDArray[np.int64]:
    """For each of n digests where the same one stands first, [n]."""
    halves = digests.view("<u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable, so that the first of equals comes first
    new = np.ones(len(order), bool)
    new[1:] = (halves[order[1:]] != halves[order[:-1]]).any(1)
    first = np.empty(len(order), np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    return first
