"""What one micro-batch takes beside weights, gradients and optimiser: a forward and a backward pass on shapes alone.

The real model, read by the real code, runs on fake tensors, which have shapes and no memory. What the tensors would
take is counted as they come and go. So the count holds for any architecture, length and setting, and for models that no
machine here could hold. On a GPU the attention kernel stands in for itself: it keeps its inputs, its output and a
number a head and token, and forms no scores.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from mmpo.errors import UserError, first_line
from mmpo.models import attention, head, packed
from mmpo.models.packed import Layout
from mmpo.models.padded import innermost
from mmpo.plan.blueprint import Blueprint
from mmpo.plan.rows import PaddedBlock, Row, padded_blocks, tokens
from mmpo.types import Tokens

NAME = "mmpo_plan"


@dataclass(frozen=True)
class Footprint:
    """Bytes of one micro-batch beside weights, gradients and optimiser states.

    Attributes:
        kept: held when the layers have been run, for the backward pass; the weights cast by autocast among them.
        forward, head, head_backward, backward: the most that is held at once in each phase. A gradient counts until it
            has been added to those of the micro-batches before.
    """

    kept: float
    forward: float
    head: float
    head_backward: float
    backward: float

    @property
    def peak(self) -> float:
        return max(astuple(self))

    def at(self, layers: int, further: Footprint, more: int) -> Footprint:
        """Both are of the same model, ``further`` with ``more`` layers than this; the one with ``layers`` more."""
        pairs = zip(astuple(self), astuple(further), strict=True)
        return Footprint(*(a + (b - a) / more * layers for a, b in pairs))


_GROUPED = torch.ops.aten._grouped_mm.default


def _experts(a: Tensor, b: Tensor, offs: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """What the product of experts gives, in shape: torch states it for bf16 alone, and computes it in fp32 as well."""
    if a.dim() == b.dim() == 2:
        assert offs is not None
        return a.new_empty(len(offs), a.shape[0], b.shape[1])
    return a.new_empty(*a.shape[:-1], b.shape[-1])


class Live(TorchDispatchMode):
    """Bytes of the tensors that are alive, apart from those there were before."""

    def __init__(self, before: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.most = 0
        self._before = {x.untyped_storage()._cdata for x in before}
        self._held: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = _experts(*args, **(kwargs or {})) if func is _GROUPED else func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return out

    def since(self) -> int:
        """The most at once since the last call."""
        most, self.most = self.most, self.now
        return most

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._before or key in self._held:
            return
        self._held[key] = storage.nbytes()
        self.now += self._held[key]
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._held.pop(key)


def footprint(
    blueprint: Blueprint,
    rows: Sequence[Row],
    *,
    layout: Layout = "shared",
    device: str = "cuda",
    autocast: torch.dtype | None = None,
    checkpointing: Mapping[str, Any] | None = None,
    dtype: str | None = None,
) -> Footprint:
    """What a micro-batch of these rows takes.

    Args:
        blueprint: the model.
        rows: the prompts of the micro-batch, each with its responses.
        layout: how they are laid out.
        device: "cpu" or "cuda": whose attention, and how much of the logits lives at once.
        autocast: what the Trainer computes in with bf16 or fp16, if not in the dtype of the weights.
        checkpointing: arguments of gradient checkpointing, or None without.
        dtype: of the weights while they are computed with, if not that of the blueprint.

    Layers that are all alike are not all run: two short models tell what one more takes.
    Raises UserError for a model whose shapes hang on the data.
    """

    def of(layers: int | None) -> Footprint:
        try:
            with torch.device("meta"):
                model = blueprint.build(layers, dtype)
            with FakeTensorMode(allow_non_fake_inputs=True):
                return _run(_faked(model), rows, layout, device, autocast, checkpointing)
        except (DataDependentOutputException, RuntimeError) as error:
            raise UserError(
                f"model: {blueprint.name} cannot be run on shapes alone ({first_line(error)}), so its memory cannot be "
                "planned; take an architecture without steps that hang on the data"
            ) from error

    step = 2 * int((checkpointing or {}).get("every_n_layers", 1))
    short = step + 1
    if not blueprint.anatomy.uniform or blueprint.layers <= short + step:
        return of(None)
    return of(short).at(blueprint.layers - short, of(short + step), step)


def _run(
    model: Any,
    rows: Sequence[Row],
    layout: Layout,
    device: str,
    autocast: torch.dtype | None,
    checkpointing: Mapping[str, Any] | None,
) -> Footprint:
    model.train()
    if checkpointing is not None:
        model.activation_checkpointing_enable(**_arguments(checkpointing))
    for parameter in model.parameters():
        # Added to what the micro-batches before have left, which is counted elsewhere.
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    read = _padded if layout == "padded" else _packed
    head.forget()
    live = Live([*model.parameters(), *model.buffers()])
    try:
        with live:
            with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
                states, finish = read(model, rows, layout == "shared", device)
                kept, forward = live.now, live.since()
                said = finish(states)
            loss, in_head = said.sum(), live.since()
            behind: list[int] = []

            def head_done(_: Tensor) -> None:
                if device != "cpu":  # where it is not kept
                    head.forget()
                behind.append(live.since())

            states.register_hook(head_done)
            del states, finish, said
            loss.backward()
        idle = (
            0
            if layout == "padded"
            else untouched(innermost(model), sum(sum(responses) for _, responses in rows), device, autocast)
        )
        after = live.since() - (idle if device == "cpu" else 0)
        return Footprint(kept, forward, in_head - idle, behind[0] - idle, after)
    finally:
        head.forget()


def _faked(model: nn.Module) -> nn.Module:
    """A model on the meta device with fake tensors on a CPU; what is tied stays tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, old in held.items():
                if old is not None and id(old) not in made:
                    new = torch.empty_like(old, device="cpu")
                    made[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                if old is not None:
                    held[name] = made[id(old)]  # type: ignore[assignment]
    return model


def _arguments(checkpointing: Mapping[str, Any]) -> dict[str, Any]:
    own = {k: v for k, v in checkpointing.items() if k in ("every_n_layers", "offload")}
    return {"activation_checkpointing_kwargs": {k: v for k, v in checkpointing.items() if k not in own} or None, **own}


# ---------------------------------------------------------------------------------------------- reading the rows


Finish = Callable[[Tensor], Tensor]
"""Hidden states [S, H] -> what is said of each response or token."""


def _packed(model: Any, rows: Sequence[Row], shared: bool, device: str) -> tuple[Tensor, Finish]:
    inner, row = innermost(model), tokens(rows, shared)
    packed.switch_on(inner)
    _attend(inner, row.trees, device)
    states: Tensor = model(packed=row, states="last")["states"]
    return states, lambda states: _said(inner, states.index_select(0, row.before), states, row, device)


def _said(inner: Any, before: Tensor, states: Tensor, row: Tokens, device: str) -> Tensor:
    lm = inner.get_output_embeddings()
    if lm is None:
        return states.index_select(0, row.last).float().sum(-1)
    labels, size = row.input_ids[row.scored], head.CHUNK_BYTES[device]
    cap = getattr(inner.config.get_text_config(), "final_logit_softcapping", None)
    if type(lm) is nn.Linear:
        return head.linear_log_probs(before, labels, lm.weight, lm.bias, cap=cap, chunk_bytes=size).logps
    return head.log_probs_through(lm, before, labels, chunk_bytes=size, vocabulary=lm.weight.shape[0]).logps


def untouched(inner: Any, scored: int, device: str, autocast: torch.dtype | None) -> int:
    """Bytes of a chunk of logits that a CPU reserves and never writes to, which take no memory."""
    lm = inner.get_output_embeddings()
    if type(lm) is not nn.Linear:
        return 0
    size, wide = head.CHUNK_BYTES[device], (autocast or lm.weight.dtype).itemsize
    written = min(max(1, size // (4 * len(lm.weight))), scored) * len(lm.weight) * wide
    return max(0, size * wide // 4 - written)


def _padded(model: Any, rows: Sequence[Row], shared: bool, device: str) -> tuple[Tensor, Finish]:
    del shared
    inner, said = innermost(model), []
    if device != "cpu":
        _attend(inner, None, device)
    with _disable_current_modes():
        blocks = padded_blocks(rows)
    can_keep = "logits_to_keep" in inspect.signature(inner.forward).parameters
    for block in blocks:
        ids = torch.zeros(block.rows, block.width, dtype=torch.long)
        partial = {"logits_to_keep": block.logits} if can_keep else {}
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **partial).logits
        said.append((logits, block))
    del logits
    return said[0][0], lambda _: torch.cat([_labelled(inner, *one) for one in said])


def _labelled(inner: Any, logits: Tensor, block: PaddedBlock) -> Tensor:
    if inner.get_output_embeddings() is None:
        return logits.float().flatten()
    at = torch.zeros(block.scored, dtype=torch.long)
    return head.read_logits(logits.flatten(0, 1)[at], at).logps


def _attend(inner: Any, trees: attention.Trees | None, device: str) -> None:
    """Give the model the attention of a device, for rows of these trees or for padded ones."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **how: Any
    ) -> tuple[Tensor, None]:
        query, key = (x.to(value.dtype) for x in (query, key))
        if device != "cpu":
            return _Kernel.apply(query, key, value).transpose(1, 2).contiguous(), None
        rule = attention.Rule(
            attention.is_causal(module, how), how.get("scaling"), 0.0, how.get("sliding_window"), how.get("softcap")
        )
        assert trees is not None
        return attention.in_parts(query, key, value, trees, rule), None

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    inner.set_attn_implementation(NAME)


class _Kernel(torch.autograd.Function):
    """The memory of a fused attention kernel: inputs, output, and the logarithm of each sum of weights."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:3], dtype=torch.float32))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value, _, sums = ctx.saved_tensors
        torch.empty_like(sums)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
