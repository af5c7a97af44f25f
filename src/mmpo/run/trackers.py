"""A tracker that is lost costs its curves, not the run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from mmpo.errors import first_line

EVENTS = tuple(name for name in dir(TrainerCallback) if name.startswith("on_"))


def outlive(callbacks: Iterable[TrainerCallback], lost: dict[str, str]) -> None:
    """Let the run outlive each tracker (wandb, tensorboard ...) among its callbacks: after its first failure it is left
    out, which is said once and noted in ``lost``, by name. Callbacks of the user's own fail as ever."""
    names = {kind: name for name, kind in INTEGRATION_TO_CALLBACK.items()}
    for callback in callbacks:
        if (name := names.get(type(callback))) is not None:
            for event in EVENTS:
                setattr(callback, event, _guarded(name, getattr(callback, event), lost))


def _guarded(name: str, tell: Callable[..., Any], lost: dict[str, str]) -> Callable[..., Any]:
    @wraps(tell)
    def guarded(args: Any, state: Any, control: Any, **further: Any) -> Any:
        if name in lost:
            return None
        try:
            return tell(args, state, control, **further)
        except Exception as error:
            lost[name] = f"step {state.global_step}: {type(error).__name__}: {first_line(error)}"
            print(f"\ntracking by {name} stopped ({lost[name]}); the run goes on without it", file=sys.stderr)
            return None

    return guarded
