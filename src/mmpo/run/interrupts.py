"""Asked to leave: finish the step, save, say how to go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # which imports this module
    from mmpo.run.lasting import LastingTrainer

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What asks a run to leave: a scheduler or ``kill``, and Ctrl-C."""


class Stopped(SystemExit):
    """A run that left when it was asked to; the exit code is that of a process which died of the signal."""

    def __init__(self, number: int, when: str) -> None:
        super().__init__(128 + number)
        self.told = f"stopped by {signal.Signals(number).name} {when}; the same command goes on"


@contextmanager
def asked_to_leave(trainer: LastingTrainer) -> Iterator[None]:
    """While this trainer trains, SIGTERM and SIGINT end it after the step that is under way, with a checkpoint.

    During an evaluation, which leaves nothing behind, and on a second signal the process leaves at once. Signals reach
    the main thread only; in another one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, frame: FrameType | None) -> None:
        if trainer.evaluating:
            raise Stopped(number, "during an evaluation")
        if trainer.asked_to_leave:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        trainer.asked_to_leave = number
        if trainer.is_world_process_zero():
            told = f"\n{signal.Signals(number).name}: saving after this step; a second signal leaves at once\n"
            # Not by print, in the middle of which the signal may have come.
            os.write(2, told.encode())

    before = {number: signal.signal(number, asked) for number in SIGNALS}
    try:
        yield
    except Stopped as stopped:
        if trainer.is_world_process_zero():
            print(f"\n{stopped.told}", file=sys.stderr)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
