"""Reading responses on packed rows: each prompt once, no padding, no logits of tokens that nobody scores.

``enable`` gives a transformers model a second way to be called, ``model(packed=tokens)``, which runs the backbone on
the row and the head on the tokens that matter. It lives in the model's own forward, so that whatever wraps the model
(peft, DDP, FSDP, torch.compile) keeps its hooks.
"""

from __future__ import annotations

import functools
import inspect
import random
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from types import MethodType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from mmpo.batch.pack import pack, spread_out
from mmpo.batch.tokenize import Encoded, pair_frame
from mmpo.models import attention, padded
from mmpo.models.grid import summed
from mmpo.models.head import TokenReadings, compared_through, linear_log_probs, log_probs_through
from mmpo.models.padded import innermost
from mmpo.types import Tokens

Layout: TypeAlias = Literal["shared", "separate", "padded"]
"""How sequences are laid out: packed with each prompt once, packed with each prompt repeated, or padded."""

POOLS: tuple[Literal["last", "first"], ...] = ("last", "first")
"""Which token of a sequence a classifier reads: the last one of a decoder, the first one of most encoders."""

LAYERS = {"full_attention", "sliding_attention"}

TRIAL_WINDOW = 3
"""Tokens that a sliding window holds during the trial, less than any of its texts has."""


@dataclass(frozen=True)
class LinearHead:
    """A head that is one linear layer and little more: logits = cap tanh(scale (W h + b) / cap)."""

    scale: float
    cap: float | None


@dataclass
class Packing:
    """What an enabled model remembers: its forward as it was, and what the trial found out about it."""

    forward: Callable[..., Any]
    implementation: str | None
    first_position: int = 0
    head: LinearHead | None = None
    pools: Literal["last", "first"] = "last"
    active: bool = True


def is_enabled(model: Any) -> bool:
    """Whether the model is read on packed rows."""
    packing = getattr(innermost(model), "packing", None)
    return packing is not None and packing.active


@contextmanager
def set_aside(model: Any) -> Iterator[None]:
    """The model read on padded rows for a while, with its own attention."""
    inner = innermost(model)
    packing = getattr(inner, "packing", None)
    if packing is None:
        with ExitStack() as several:
            for member in getattr(inner, "members", ()):
                several.enter_context(set_aside(member))
            yield
        return
    packing.active = False
    try:
        with _attention(inner, packing.implementation):
            yield
    finally:
        packing.active = True


Compare: TypeAlias = Callable[[Tensor, Tensor, slice], Tensor]
"""Logits [m, V], labels [m] and their place among the M scored tokens -> what was found there, [m, n]."""


def read(
    model: Any, tokens: Tokens, statistics: Collection[str] = (), compare: Compare | None = None
) -> dict[str, Tensor]:
    """What a causal language model says of the M scored tokens: the fields of TokenReadings by name, the "features"
    [N, H], which are the last hidden states of the sequences, and with ``compare`` what was "found", [M, n]."""
    said: dict[str, Tensor] = model(packed=tokens, statistics=tuple(statistics), compare=compare)
    return said


def token_readings(model: Any, tokens: Tokens, statistics: Collection[str] = ()) -> TokenReadings:
    """What a causal language model says of the M scored tokens."""
    said = read(model, tokens, statistics)
    said.pop("features")
    return TokenReadings(**said)


def scores(model: Any, tokens: Tokens) -> Tensor:
    """[N] scores of a sequence classifier with one label, [N, D] of one with several."""
    return scores_and_features(model, tokens)[0]


def scores_and_features(model: Any, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """[N] scores of a sequence classifier with one label, and the hidden states [N, H] that its head reads."""
    said = model(packed=tokens)
    return said["scores"], said["features"]


def scores_and_prompts(model: Any, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """The scores, and the last hidden state [N, H] of each sequence's prompt, which sees no response in a decoder."""
    said = model(packed=tokens, further=_prompt_ends(tokens))
    return said["scores"], said["further"]


def pools_last(model: Any) -> bool:
    """Whether a model that is read on packed rows pools its last token, as decoders do."""
    return bool(innermost(model).packing.pools == "last")


@torch.no_grad()
def layers(model: Any, tokens: Tokens) -> Tensor:
    """[M, L, H]: the hidden states of every layer at the M scored tokens, without gradient."""
    states: Tensor = model(packed=tokens, states="every")["states"]
    return states.index_select(0, tokens.scored)


@torch.no_grad()
def distribution(model: Any, tokens: Tokens) -> Callable[[slice], Tensor]:
    """A function that gives the logits [m, V] of some of the M scored tokens, without gradient."""
    states = model(packed=tokens, states="last")["states"].index_select(0, tokens.before)
    inner = innermost(model)

    @torch.no_grad()
    def logits(span: slice) -> Tensor:
        return _own_logits(inner, states[span])

    return logits


# ---------------------------------------------------------------------------------------------- switching it on


def enable(model: Any, tokenizer: Any, most: Layout = "shared") -> tuple[Layout, str | None]:
    """Teach a model to read packed rows: the best layout up to ``most`` that it can read, and why no better one.

    Whether an architecture can is not looked up but tried: on a row of random tokens no response may feel another, and
    every one must read as it does alone. A model that cannot is left as it was.
    """
    disable(model)
    inner = innermost(model)
    reason = "it was asked for" if most == "padded" else unfit(inner)
    if reason is not None:
        return "padded", reason
    switch_on(inner)
    layouts: tuple[Layout, ...] = ("shared", "separate") if most == "shared" else ("separate",)
    if pair_frame(tokenizer):
        layouts, reason = ("separate",), "it reads prompt and response in both directions"
    for layout in layouts:
        failed = _trial(model, tokenizer, layout == "shared")
        if failed is None:
            return layout, reason if layout != most else None
        reason = failed
    disable(model)
    return "padded", reason


def switch_on(inner: Any) -> None:
    """Give a model its second way to be called, untried."""
    packing = Packing(inner.forward, inner.config._attn_implementation, _first_position(inner))
    attention.register()
    inner.set_attn_implementation(attention.NAME)
    inner.packing = packing
    inner.forward = MethodType(_both_ways(type(inner).forward), inner)


def disable(model: Any) -> None:
    """Make an enabled model as it was."""
    inner = innermost(model)
    packing = inner.__dict__.pop("packing", None)
    if packing is None:
        return
    del inner.forward
    if packing.forward != inner.forward:
        inner.forward = packing.forward
    inner.set_attn_implementation(packing.implementation)


def compile_layers(model: Any, backend: str | None = None, mode: str | None = None) -> int:
    """torch.compile each layer of an enabled model in place, for rows of any length; returns how many there were.

    The whole model would be compiled anew for every layout of a row; its layers see no more of it than their attention
    function, which stays out.
    """
    layers = [m for m in innermost(model).modules() if isinstance(m, GradientCheckpointingLayer)]
    if not is_enabled(model):
        return 0
    for layer in layers:
        layer.compile(backend=backend or "inductor", mode=mode, dynamic=True)
    return len(layers)


def _both_ways(plain: Callable[..., Any]) -> Callable[..., Any]:
    # The signature stays that of the model: generate() checks its arguments against it.
    @functools.wraps(plain)
    def forward(
        self: Any,
        *args: Any,
        packed: Tokens | None = None,
        statistics: tuple[str, ...] = (),
        compare: Compare | None = None,
        states: Literal["last", "every"] | None = None,
        further: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if packed is None:
            return self.packing.forward(*args, **kwargs)
        if states is not None:
            return {"states": _states(self, packed, every_layer=states == "every")}
        return _read(self, packed, statistics, compare, further)

    return forward


@contextmanager
def _attention(inner: Any, implementation: str | None) -> Iterator[None]:
    """An enabled model with another attention for a while."""
    inner.set_attn_implementation(implementation)
    try:
        yield
    finally:
        inner.set_attn_implementation(attention.NAME)


def unfit(inner: Any) -> str | None:
    """Why a model need not even be tried."""
    if not getattr(inner, "_supports_attention_backend", False):
        return "its attention does not go through the attention interface of transformers"
    if inner.config.is_encoder_decoder:
        return "it has an encoder and a decoder"
    unknown = set(getattr(inner.config.get_text_config(), "layer_types", None) or ()) - LAYERS
    if unknown:
        return f"it has layers of type {', '.join(sorted(unknown))}"
    # The trial puts known states in place of the backbone, which here would be the model itself.
    return "it has no head, or a backbone of another name than usual" if inner.base_model is inner else None


def _first_position(inner: Any) -> int:
    """RoBERTa and its kin count positions from the one after the padding's; all others from 0."""
    for name, module in inner.base_model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0


# ---------------------------------------------------------------------------------------------- reading


def _prompt_ends(tokens: Tokens) -> Tensor:
    """[N] where the last token of each sequence's prompt stands on the row."""
    ends, begin = [], 0
    for tree in tokens.trees:
        ends += [begin + max(tree[0], 1) - 1] * (len(tree) - 1)
        begin += sum(tree)
    return torch.tensor(ends, device=tokens.input_ids.device)


def _read(
    inner: Any,
    tokens: Tokens,
    statistics: tuple[str, ...],
    compare: Compare | None = None,
    further: Tensor | None = None,
) -> dict[str, Tensor]:
    """What a model says; of a sequence classifier also the "further" hidden states, [n, H] at places [n] of the row."""
    packing = inner.packing
    states = _states(inner, tokens)
    if not _writes(inner):
        features = states.index_select(0, tokens.last if packing.pools == "last" else tokens.first)
        said = {"scores": _own_logits(inner, features).squeeze(-1), "features": features}
        return said if further is None else said | {"further": states.index_select(0, further)}
    features = states.index_select(0, tokens.last)
    states, labels = states.index_select(0, tokens.before), tokens.input_ids[tokens.scored]
    if packing.head is not None:
        head = inner.get_output_embeddings()
        found = linear_log_probs(
            states,
            labels,
            _whole(head.weight),
            None if head.bias is None else _whole(head.bias),
            **asdict(packing.head),
            statistics=statistics,
        )
    else:
        found = log_probs_through(
            lambda chunk: _own_logits(inner, chunk),
            states,
            labels,
            statistics=statistics,
            vocabulary=inner.config.get_text_config().vocab_size,
        )
    said = {name: value for name, value in vars(found).items() if value is not None} | {"features": features}
    if compare is not None:
        said["found"] = compared_through(
            lambda chunk: _own_logits(inner, chunk),
            states,
            labels,
            compare,
            vocabulary=inner.config.get_text_config().vocab_size,
        )
    return said


def _states(inner: Any, tokens: Tokens, every_layer: bool = False) -> Tensor:
    """[S, H], the last hidden states of the row; those of every layer, [S, L, H], on request."""
    backbone = inner.base_model
    further: dict[str, Any] = {name: value[None] for name, value in tokens.extra.items()}
    if "use_cache" in inspect.signature(backbone.forward).parameters:
        further["use_cache"] = False
    if every_layer:
        further["output_hidden_states"] = True
    said = backbone(
        input_ids=tokens.input_ids[None],
        position_ids=tokens.position_ids[None] + inner.packing.first_position,
        attention_mask=attention.layout_mask(tokens.trees),
        **further,
    )
    return torch.stack([h[0] for h in said.hidden_states], 1) if every_layer else said.last_hidden_state[0]


def _writes(inner: Any) -> bool:
    return inner.get_output_embeddings() is not None


def _whole(weight: Tensor) -> Tensor:
    """The weight, gathered where FSDP has divided it."""
    if not isinstance(weight, DTensor):
        return weight
    # Each process has the gradient of its own prompts, and the mean of them is wanted.
    gathered: Tensor = weight.full_tensor(grad_placements=[Partial("avg")] * weight.device_mesh.ndim)
    return gathered


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _own_logits(inner: Any, states: Tensor) -> Tensor:
    """[n, H] -> [n, V]: everything that the model's own forward does after its backbone, whatever that is."""
    with _answered(inner, states[:, None]):
        logits: Tensor = inner.packing.forward(input_ids=torch.zeros_like(states[:, :1], dtype=torch.long)).logits
    return logits.flatten(0, -2) if logits.ndim == 3 else logits


class _Answer(BaseModelOutputWithPoolingAndCrossAttentions):
    """Hidden states, and None to whatever else a head may look for."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Known(torch.nn.Module):
    """Stands where the backbone stood and gives states that are known already."""

    def __init__(self, states: Tensor, pooled: Tensor | None) -> None:
        super().__init__()
        self.answer = _Answer(last_hidden_state=states, pooler_output=pooled)
        # Some models call the decoder inside their backbone (OPT). No submodule, or it would contain itself.
        self.__dict__["decoder"] = self

    def forward(self, *args: Any, **kwargs: Any) -> _Answer:
        return self.answer


@contextmanager
def _answered(inner: Any, states: Tensor) -> Iterator[None]:
    """The model with a backbone that gives hidden states which are known already."""
    name, backbone = inner.base_model_prefix, inner.base_model
    pooler = getattr(backbone, "pooler", None)
    known = _Known(states, None if pooler is None else pooler(states))
    inner._modules[name] = known
    try:
        yield
    finally:
        inner._modules[name] = backbone


# ---------------------------------------------------------------------------------------------- the trial


@torch.no_grad()
def _trial(model: Any, tokenizer: Any, shared: bool) -> str | None:
    """Try the layout on random tokens; None, or what went wrong."""
    inner = innermost(model)
    training = inner.training
    inner.eval()
    try:
        with _narrow_windows(inner):
            if _writes(inner):
                inner.packing.head = _linear_head(inner)
                return _fault(model, tokenizer, shared)
            # Where all scores are alike, as those of a head of zeros, the first guess stands.
            for pools in reversed(POOLS) if pair_frame(tokenizer) else POOLS:
                inner.packing.pools = pools
                fault = _fault(model, tokenizer, shared)
                if fault is None:
                    break
            return fault
    except Exception as error:  # a model may fail in any way when it is asked for what it was not built for
        return f"it fails on packed rows ({type(error).__name__}: {error})"
    finally:
        inner.train(training)


@contextmanager
def _narrow_windows(inner: Any) -> Iterator[None]:
    """Sliding windows so narrow that the few tokens of a trial go beyond them.

    A packed row takes the window from what a layer hands to its attention function, a plain batch from the config by
    way of the mask. There are models whose layers hand over none.
    """
    holders: dict[int, Any] = {id(x): x for m in inner.modules() for x in (m, getattr(m, "config", None))}
    windows = [(x, x.sliding_window) for x in holders.values() if type(getattr(x, "sliding_window", None)) is int]
    less = max(0, min((width for _, width in windows), default=0) - TRIAL_WINDOW)
    try:
        for holder, width in windows:
            holder.sliding_window = width - less
        yield
    finally:
        for holder, width in windows:
            holder.sliding_window = width


def _linear_head(inner: Any) -> LinearHead | None:
    """The head in closed form, if that gives what the model's own forward gives."""
    head = inner.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return None
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(8, head.in_features, generator=draw).to(head.weight)
    own, raw = _own_logits(inner, states).float(), head(states).float()
    cap = getattr(inner.config.get_text_config(), "final_logit_softcapping", None)
    straight = cap * torch.atanh(own / cap) if cap else own
    scale = float((straight * raw).sum() / (raw * raw).sum())
    exact = head.weight.dtype in (torch.float32, torch.float64)
    if abs(scale - 1) < (1e-5 if exact else 1e-2):
        scale = 1.0
    elif not exact:  # too coarse to measure a factor
        return None
    expected = scale * raw if not cap else cap * torch.tanh(scale * raw / cap)
    tolerance = 1e-4 if exact else 2e-2
    return LinearHead(scale, cap) if torch.allclose(own, expected, tolerance, tolerance) else None


def _fault(model: Any, tokenizer: Any, shared: bool) -> str | None:
    """Compare readings of random tokens: packed with alone, and packed with other texts beside them."""
    inner = innermost(model)
    device, dtype = (getattr(next(inner.parameters()), name) for name in ("device", "dtype"))
    draw = random.Random(0)
    words = [n for n in range(inner.get_input_embeddings().num_embeddings) if n not in tokenizer.all_special_ids]

    def text(length: int) -> tuple[int, ...]:
        return tuple(draw.choices(words, k=length))

    data = [Encoded("", text(p), tuple(map(text, responses))) for p, responses in ((7, (5, 3, 6)), (4, (6, 2)))]

    def row(data: list[Encoded]) -> Tokens:
        return pack(data, 3, tokenizer.pad_token_id, pair_frame(tokenizer), shared).to(device)

    def read(path: Any, tokens: Tokens) -> Tensor:
        if not _writes(inner):
            return path.scores(model, tokens).float()
        return summed(path.token_readings(model, tokens).logps, tokens)

    packed = sys.modules[__name__]
    exact = dtype in (torch.float32, torch.float64)
    tokens = row(data)
    together = read(packed, tokens)
    with _attention(inner, "eager"):
        alone = torch.cat([read(padded, row([one.only(i)])) for one in data for i in range(len(one.responses))])
    if not alone.isfinite().all():  # that is for the self-test of the run to say
        return None
    if not torch.allclose(together, alone, *((1e-4, 1e-4) if exact else (3e-2, 3e-2))):
        return "responses read otherwise on a packed row than alone"
    at, real = spread_out(tokens)
    for n in (0, len(at) - 1):
        own = at[n][real[n]]
        others = torch.tensor(text(len(tokens.input_ids)), device=device)
        found = read(packed, replace(tokens, input_ids=others.index_copy(0, own, tokens.input_ids[own])))
        if not torch.allclose(found[n], together[n], *((1e-6, 1e-6) if exact else (1e-3, 1e-3))):
            return "a response feels the others on a packed row"
    return None
