"""The processes of a run: one that goes is named by those that remain."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]
from transformers import TrainingArguments

GRACE = 3.0
"""Seconds in which the processes that remain get to the roll call."""

RANK, PROCESSES = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))


def of_any_number(arguments: Mapping[str, Any], coupled: bool) -> dict[str, Any]:
    """A run's arguments without how its processes share a step, which may change when it goes on; what a step holds may
    not. For a method that compares the data of a micro-batch (``coupled``) it is part of the run."""
    if coupled:
        return {**arguments, "processes": PROCESSES}
    size, parts = "per_device_train_batch_size", "gradient_accumulation_steps"
    kept = {key: arguments[key] for key in arguments if key not in (size, parts, "per_device_eval_batch_size")}
    given = {size: TrainingArguments.per_device_train_batch_size, parts: 1, **arguments}
    return {**kept, "prompts_a_step": given[size] * given[parts] * PROCESSES}


@contextmanager
def accounted_for() -> Iterator[None]:
    """Where another process goes without a word, say which, and leave with exit code 1.

    gloo and NCCL see it as a connection that closes or as a call that times out, on other machines as well. Nothing is
    taken for it that is only slow: a process that is alive keeps its connections, however long a step takes.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo raises no kind of its own.
        if PROCESSES == 1 or not (isinstance(error, DistError) or "gloo/transport" in str(error)):
            raise
        present = roll_call()
        gone = [rank for rank in range(PROCESSES) if rank not in present]
        if min(present) == RANK:
            who = f"process{'es' * (len(gone) > 1)} {', '.join(map(str, gone))} of {PROCESSES} (counted from 0) went"
            print(
                f"\nmmpo: {who if gone else 'the connection to another process was lost'}; the others leave. The same "
                "command goes on from the last whole checkpoint",
                file=sys.stderr,
                flush=True,
            )
        # Taking down connections of which one end is gone may hang, and nothing is left to do but to write out what
        # was printed.
        sys.stdout.flush()
        os._exit(1)


def roll_call() -> set[int]:
    """Who is still there, this process among them: asked at the launcher's store, which outlives the processes."""
    present = {RANK}
    if threading.current_thread() is threading.main_thread():
        # The launcher asks all to leave as soon as it sees that one is gone; they are about to.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(*place, is_master=False, timeout=timedelta(seconds=GRACE))
        call = f"mmpo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/present"
        store.set(f"{call}/{RANK}", "")
        end = time.monotonic() + GRACE
        while time.monotonic() < end and len(present) < PROCESSES:
            present |= {rank for rank in range(PROCESSES) if store.check([f"{call}/{rank}"])}
            time.sleep(0.1)
    except (RuntimeError, KeyError):
        pass  # The store went with the process that was lost, so who it was stays open.
    return present
