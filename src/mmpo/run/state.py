"""What a method learns beside the model: its memory and its heads, kept in checkpoints and alike on all processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmpo.errors import UserError
from mmpo.models.outputs import STATE as FILE
from mmpo.models.outputs import state_of
from mmpo.types import Evidence, Method, Reading


class MethodState:
    """The memory of a method's parts (see ``Part.memory``) and the learned heads of its reader.

    Args:
        method: whose state it is.
        heads: the heads that the reader holds.
        voices: how many voices there are, the one without a name included.
        device: where training runs.
    """

    def __init__(self, method: Method, heads: nn.ModuleDict, voices: int, device: torch.device) -> None:
        self.method = method
        self.heads = heads.to(device)
        # Each process drew its own.
        broadcast(list(heads.parameters()))
        self.memory = {name: value.to(device) for name, value in method.memory(voices).items()}
        self._observed: list[dict[str, Tensor]] = []

    def __bool__(self) -> bool:
        return bool(self.memory) or len(self.heads) > 0

    def observe(self, evidence: Evidence, reading: Reading) -> None:
        """Note what a micro-batch of the step teaches the memory."""
        if self.memory:
            self._observed.append(self.method.observe(evidence, reading))

    def remember(self, gather: Callable[[list[Any]], list[Any]]) -> None:
        """Bring the memory up to date at the end of a step; ``gather`` joins the lists of all processes."""
        if not self.memory:
            return
        seen: list[dict[str, Tensor]] = gather([{n: x.cpu() for n, x in part.items()} for part in self._observed])
        self._observed = []
        device = next(iter(self.memory.values())).device
        joined = {name: torch.cat([part[name] for part in seen]).to(device) for name in (seen[0] if seen else {})}
        self.memory = self.method.remember(self.memory, joined)

    def share_gradients(self, accelerator: Accelerator, most: float | None) -> None:
        """The heads' gradients as the mean over processes, with a norm of at most ``most`` (None or 0: any)."""
        gradients = [p for p in self.heads.parameters() if p.grad is not None]
        for parameter in gradients:
            parameter.grad = accelerator.reduce(parameter.grad, "mean")
        if most and gradients:
            # For fp16 they are scaled until the optimiser's step.
            scale = 1.0 if accelerator.scaler is None else accelerator.scaler.get_scale()
            nn.utils.clip_grad_norm_(gradients, most * scale)

    def save(self, folder: Path) -> None:
        tensors = state_of(self.heads, self.memory)
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Raises UserError where the folder has no state, or that of another method."""
        path = folder / FILE
        if not path.is_file():
            raise UserError(f"{path} is missing, so the run cannot go on from {folder}; remove that checkpoint")
        tensors = load_file(path)
        if tensors.keys() != state_of(self.heads, self.memory).keys():
            raise UserError(f"{path} holds the state of another method; take another output_dir")
        self.memory = {n: tensors[f"memory.{n}"].to(value.device) for n, value in self.memory.items()}
        self.heads.load_state_dict({n: tensors[f"heads.{n}"] for n in self.heads.state_dict()})
