"""Reward models of several outputs, and what is learned beside them: tables of numbers, and heads on the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmpo.errors import UserError
from mmpo.models import packed, padded
from mmpo.models.closer import in_full
from mmpo.models.grid import to_grid
from mmpo.types import Batch, Reading

STATE = "method_state.safetensors"
"""The file beside a model, or in a checkpoint, with what was learned beside it."""


class Table(nn.Module):
    """Numbers that belong to no datum, such as a row of weights for each person. A single one begins at 0."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape) if shape else torch.zeros(()))


def fresh_heads(tables: Mapping[str, tuple[int, ...]], on_prompt: Mapping[str, int], hidden: int) -> nn.ModuleDict:
    """Tables of these shapes, and linear heads of so many numbers on the last hidden state [hidden] of the prompt."""
    heads = {
        "tables": nn.ModuleDict({name: Table(shape) for name, shape in tables.items()}),
        "on_prompt": nn.ModuleDict({name: nn.Linear(hidden, n) for name, n in on_prompt.items()}),
    }
    return nn.ModuleDict({name: held for name, held in heads.items() if len(held)})


def with_labels(model: Any, names: list[str]) -> list[str]:
    """Write the names of a model's outputs into its config (``id2label``), by which others find them."""
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: n for n, name in enumerate(names)}
    return names


def state_of(heads: nn.ModuleDict, memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What was learned beside a model, by the names that it has in its file."""
    tensors = {f"memory.{name}": value for name, value in memory.items()}
    return tensors | {f"heads.{name}": value for name, value in heads.state_dict().items()}


def check_prompts(model: Any, heads: Iterable[str]) -> None:
    """Raise UserError where there are heads on the prompt and the model does not read a prompt by itself."""
    if (names := ", ".join(heads)) and not (packed.is_enabled(model) and packed.pools_last(model)):
        raise UserError(
            f"the method reads the end of the prompt ({names}), which only a decoder on packed rows has without the "
            "response; take a decoder such as Qwen2, and leave layout out if you set it"
        )


def stored_state(folder: Path) -> tuple[nn.ModuleDict, dict[str, Tensor]]:
    """The heads and the memory that lie beside a model; nothing where there was nothing to learn."""
    path = folder / STATE
    found = load_file(path) if path.is_file() else {}
    memory = {name.removeprefix("memory."): value for name, value in found.items() if name.startswith("memory.")}
    weights = {name.removeprefix("heads."): value for name, value in found.items() if name.startswith("heads.")}
    parts = {tuple(name.split(".")[:2]): value for name, value in weights.items() if name.endswith(".weight")}
    tables = {name: tuple(value.shape) for (kind, name), value in parts.items() if kind == "tables"}
    on_prompt = {name: value for (kind, name), value in parts.items() if kind == "on_prompt"}
    hidden = next((value.shape[1] for value in on_prompt.values()), 0)
    heads = fresh_heads(tables, {name: len(value) for name, value in on_prompt.items()}, hidden)
    heads.load_state_dict(weights)
    return heads, memory


@dataclass(frozen=True)
class OutputsReader:
    """Reads all outputs of a sequence classifier, and what was learned beside it.

    Attributes:
        heads: what ``fresh_heads`` or ``stored_state`` gave. Heads on the prompt need a decoder that is read on packed
            rows, whose prompts do not see the responses.
        memory: what a trained method remembers, for readings after its training.
    """

    heads: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def tables(self) -> dict[str, Tensor]:
        """The tables and the memory, as readings hold them."""
        return {**{name: table.weight for name, table in self._held("tables").items()}, **self.memory}

    @property
    def on_prompt(self) -> dict[str, Any]:
        """The heads on the prompt."""
        return self._held("on_prompt")

    @property
    def learned(self) -> dict[str, Tensor]:
        """All that it reads beside the model."""
        return state_of(self.heads, self.memory)

    def __call__(self, model: Any, batch: Batch) -> Reading:
        said, of_prompt = self._said(model, batch)
        said = said.unsqueeze(-1) if said.dim() == 1 else said
        return Reading(
            mask=batch.evidence.mask,
            lengths=to_grid(batch.tokens.lengths, batch),
            outputs=to_grid(said, batch),
            of_prompt=of_prompt,
            tables={name: value.to(said.device) for name, value in self.tables.items()},
        )

    def _said(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """[N, D] outputs, or [N] where there is one, and what the heads say of each prompt."""
        if not packed.is_enabled(model):
            return padded.scores(model, batch.tokens), {}
        if not self.on_prompt:
            return packed.scores(model, batch.tokens), {}
        said, states = packed.scores_and_prompts(model, batch.tokens)
        # The responses of a datum have one prompt; where they have their own, that of the first counts.
        prompts = to_grid(states, batch)[:, 0]
        return said, {name: in_full(head, prompts) for name, head in self.on_prompt.items()}

    def _held(self, kind: str) -> dict[str, Any]:
        return dict(self.heads[kind].items()) if kind in self.heads else {}  # type: ignore[operator]
