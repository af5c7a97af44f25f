"""References: where the log-probs that a policy is measured against come from."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from mmpo.batch import Collator, Encoded, StoredExamples
from mmpo.errors import UserError
from mmpo.models.grid import to_grid
from mmpo.models.policy import Reference, response_logps
from mmpo.models.store import ReferenceStore, sequence_key
from mmpo.pieces import on_disk
from mmpo.types import Batch

LOOKED_UP = 4096
"""Prompts whose log-probs are looked up at once."""


@dataclass(frozen=True)
class FrozenCopy:
    """A second model that never changes."""

    model: Any

    @classmethod
    def of(cls, model: Any) -> FrozenCopy:
        return cls(copy.deepcopy(model).requires_grad_(False).eval())

    @contextmanager
    def at_hand(self, model: Any) -> Iterator[Any]:
        """The reference as a model, on the device of the policy."""
        yield self.model.to(next(model.parameters()).device)

    @torch.no_grad()
    def __call__(self, model: Any, batch: Batch) -> Tensor:
        with self.at_hand(model) as reference:
            return to_grid(response_logps(reference, batch.tokens), batch)


@dataclass(frozen=True)
class AdapterOff:
    """The policy itself with its adapter switched off: no second model in memory."""

    @contextmanager
    def at_hand(self, model: Any) -> Iterator[Any]:
        """The policy with its adapter switched off, in evaluation mode, for a while."""
        inner = model.module if hasattr(model, "module") else model
        was_training = inner.training
        off = inner.disable_adapter()
        try:
            inner.eval()
            with off:
                yield model
        finally:
            inner.train(was_training)

    @torch.no_grad()
    def __call__(self, model: Any, batch: Batch) -> Tensor:
        with self.at_hand(model) as reference:
            return to_grid(response_logps(reference, batch.tokens), batch)


def cache_reference(
    model: Any, examples: StoredExamples, collator: Collator, store: ReferenceStore | None = None
) -> tuple[StoredExamples, int]:
    """Examples with the reference's log-probs, and how many responses had to be read for that.

    The reference is the model as it stands, adapter off. What ``store`` knows already is not read again; what is read
    goes there batch by batch, so that a kill loses little. Several processes share the reading. Where the examples lie
    on disk, all their log-probs are then kept beside the store, and the next time that file alone is read.
    Raises UserError where a log-prob is not finite.
    """
    beside = None if store is None or examples.folder is None else store.beside(examples.folder.name)
    # Others may be writing to the store; all processes must go by what the first one found there.
    logps: NDArray[np.float32] = _by_the_first(lambda: _known(examples, store, beside))
    missing = np.unique(_rows(examples, np.flatnonzero(np.isnan(logps)))).tolist()
    for at, values in _read(model, examples, missing, collator, store):
        logps[at] = values
    _check(examples, logps)
    if beside is not None and PartialState().is_main_process and _whole(beside, len(logps)) is None:
        _keep(beside, logps)
    return examples.with_reference(logps), int(examples.sizes.k[missing].sum())


def _rows(examples: StoredExamples, responses: NDArray[np.int64]) -> NDArray[np.int64]:
    """The example that each response, counted over all, belongs to."""
    return np.searchsorted(examples.starts, responses, side="right") - 1


def _by_the_first(ask: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """What the first process says, on all of them."""
    found: NDArray[np.float32]
    (found,) = broadcast_object_list([ask() if PartialState().is_main_process else None])
    return found


def _known(examples: StoredExamples, store: ReferenceStore | None, beside: Path | None) -> NDArray[np.float32]:
    """The log-prob of each response, one example after the other, NaN where nobody knows it."""
    logps = np.full(examples.starts[-1], np.nan, np.float32)
    if store is None or not store.holds_any():
        return logps
    if beside is not None and (found := _whole(beside, len(logps))) is not None:
        return found
    bar = iter(tqdm(range(len(examples)), desc="known reference log-probs", unit="prompt", delay=2, disable=None))
    while rows := list(islice(bar, LOOKED_UP)):
        keys = [key for n in rows for key in keys_of(examples.encoded(n))]
        begin = examples.starts[rows[0]]
        logps[begin : begin + len(keys)] = [np.nan if logp is None else logp for logp in store.get(keys)]
    return logps


def _whole(path: Path, n: int) -> NDArray[np.float32] | None:
    """The ``n`` log-probs of a file; None where it is not there or damaged, for they can be found again."""
    try:
        found: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (n,) and found.dtype == np.float32 and np.isfinite(found).all() else None


def keys_of(encoded: Encoded) -> list[bytes]:
    """What the store knows each response of a datum by."""
    return [sequence_key(*encoded.parted(i)) for i in range(len(encoded.responses))]


@torch.no_grad()
def _read(
    model: Any, examples: StoredExamples, missing: Sequence[int], collator: Collator, store: ReferenceStore | None
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The log-probs of these examples, read by all processes together: for each process, places and values."""
    reference: Reference = AdapterOff() if hasattr(model, "disable_adapter") else FrozenCopy(model)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    here = PartialState()
    chunks = collator.chunks(examples, among=missing)[here.process_index :: here.num_processes]
    at, values = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for rows in tqdm(chunks, desc="reference log-probs", unit="batch", disable=not chunks):
        some = [examples[n] for n in rows]
        logps = reference(model, collator.batch(some).to(device)).cpu()
        found = [line[: len(one.encoded.responses)].numpy() for line, one in zip(logps, some, strict=True)]
        if store is not None:
            keys = [key for one in some for key in keys_of(one.encoded)]
            store.put(dict(zip(keys, np.concatenate(found).tolist(), strict=True)))
        at += [np.arange(*examples.starts[n : n + 2]) for n in rows]
        values += found
    model.train(was_training)
    found_by: list[Any] = gather_object([(np.concatenate(at), np.concatenate(values))])
    return found_by


def _check(examples: StoredExamples, logps: NDArray[np.float32]) -> None:
    wrong = np.flatnonzero(~np.isfinite(logps))
    if not len(wrong):
        return
    n = int(_rows(examples, wrong[:1])[0])
    values = logps[slice(*examples.starts[n : n + 2])].tolist()
    raise UserError(
        f"{examples.encoded(n).id}: the reference gives its responses the log-probs {values}; look at the model's "
        "weights and dtype"
    )


def _keep(path: Path, logps: NDArray[np.float32]) -> None:
    """All of the log-probs, or nothing."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with on_disk(path.parent):
        with draft.open("wb") as file:
            np.save(file, logps, allow_pickle=False)
        draft.replace(path)
