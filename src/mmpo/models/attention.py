"""Attention over packed rows: every token sees its prompt and its own response, and nothing else on the row.

Registered with transformers' attention interface under ``NAME``. The layout of the row travels as the 4-D mask that
every model hands through to its layers: an int32 tensor [1, 1, trees, 1 + K], the tokens of a prompt and of each
response to it, filled up with -1. Calls with any other mask are those of plain batches and of generation.

On CPU, and where FlexAttention cannot be compiled, a row is cut into its trees, and each part goes through
scaled_dot_product_attention: a prompt and its first response are one causal block; each further response attends to
the prompt and to itself. On CUDA the whole row is one FlexAttention call with a block mask. Prompt sharing for
preference pairs: Wang and Hegde 2024, arXiv 2410.20305.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._triton import has_triton
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "mmpo_packed"

Trees = tuple[tuple[int, ...], ...]


class Rule(NamedTuple):
    """How scores become weights: what a layer hands to its attention function beside query, key and value."""

    causal: bool
    scaling: float | None
    dropout: float
    window: int | None
    softcap: float | None


def register() -> None:
    """Make ``NAME`` known to transformers. Doing it twice changes nothing."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def layout_mask(trees: Trees) -> Tensor:
    """The layout of a row, in the shape in which models hand masks through. It stays on the CPU."""
    width = max(map(len, trees))
    return torch.tensor([tree + (-1,) * (width - len(tree)) for tree in trees], dtype=torch.int32)[None, None]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Query [B, heads, S, D], key and value [B, kv heads, S, D] -> [B, S, heads, D]."""
    rule = Rule(is_causal(module, kwargs), scaling, dropout, sliding_window, softcap)
    if attention_mask is None or attention_mask.dtype != torch.int32:
        if softcap is None:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
            )
        key, value = _for_each_query_head(query, key, value)
        rule = rule._replace(causal=rule.causal and attention_mask is None and query.shape[2] > 1)
        return _block(query, key, value, attention_mask, rule).transpose(1, 2).contiguous(), None
    for unknown in ("s_aux", "position_bias"):
        if kwargs.get(unknown) is not None:
            raise NotImplementedError(f"packed attention has no {unknown}")
    trees = tuple(tuple(n for n in tree if n >= 0) for tree in attention_mask[0, 0].tolist())
    if query.device.type == "cuda" and not dropout and has_triton():
        mask = block_mask(trees, rule.causal, rule.window, query.device)
        # Under autocast rotary embeddings leave query and key in fp32; the kernel wants one precision.
        query, key = query.to(value.dtype), key.to(value.dtype)
        return flex_attention_forward(module, query, key, value, mask, scaling=scaling, softcap=softcap)[0], None
    return in_parts(query, key, value, trees, rule), None


def in_parts(query: Tensor, key: Tensor, value: Tensor, trees: Trees, rule: Rule) -> Tensor:
    """What ``attend`` gives for a packed row where FlexAttention does not run: [1, S, heads, D]."""
    key, value = _for_each_query_head(query, key, value)
    return _by_tree(query, key, value, trees, rule).transpose(1, 2).contiguous()


def is_causal(module: torch.nn.Module, kwargs: dict[str, Any]) -> bool:
    said = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if said is None else said)


def _for_each_query_head(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    groups = query.shape[1] // key.shape[1]
    return repeat_kv(key, groups), repeat_kv(value, groups)


def _by_tree(query: Tensor, key: Tensor, value: Tensor, trees: Trees, rule: Rule) -> Tensor:
    """[1, heads, S, D] each -> [1, heads, S, D], tree by tree."""
    # A prompt and its first response are one causal sequence, so they are cut off as one part.
    sizes = [n for prompt, first, *more in trees for n in (prompt + first, *more)]
    parts = iter(zip(*(x.split(sizes, dim=2) for x in (query, key, value)), strict=True))
    out = []
    for prompt, first, *more in trees:
        q, k, v = next(parts)
        whole = prompt + first
        narrow = rule.window is not None and rule.window < whole
        out.append(_block(q, k, v, _reach(whole, whole, rule, q.device) if narrow else None, rule))
        asked, said = k[:, :, :prompt], v[:, :, :prompt]
        for length in more:
            q, k, v = next(parts)
            seen = _reach(length, prompt + length, rule, q.device)
            out.append(_block(q, torch.cat([asked, k], dim=2), torch.cat([said, v], dim=2), seen, rule))
    return torch.cat(out, dim=2)


def _block(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, rule: Rule) -> Tensor:
    """One dense block; with no mask ``seen`` the rule says whether it is causal.

    Soft-capping (Gemma 2, arXiv 2408.00118) has no fused kernel, so there the scores are formed.
    """
    causal = rule.causal and seen is None
    if rule.softcap is None:
        return scaled_dot_product_attention(
            q, k, v, attn_mask=seen, dropout_p=rule.dropout, is_causal=causal, scale=rule.scaling
        )
    if causal:
        seen = _reach(q.shape[2], k.shape[2], rule._replace(window=None), q.device)
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if rule.scaling is None else rule.scaling)
    scores = rule.softcap * torch.tanh(scores / rule.softcap)
    if seen is not None:
        scores = torch.where(seen, scores, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return drop(weights, rule.dropout) @ v


def _reach(queries: int, keys: int, rule: Rule, device: torch.device) -> Tensor:
    """[queries, keys] bool: what the last ``queries`` of ``keys`` tokens see, within the window."""
    at = torch.arange(keys - queries, keys, device=device)[:, None]
    return _sees(at - torch.arange(keys, device=device), rule.causal, rule.window)


def _sees(back: Tensor, causal: bool, window: int | None) -> Tensor:
    """Whether a token sees another of its sequence that stands ``back`` places before it, or after it if negative."""
    away = back if causal else back.abs()
    return away >= 0 if window is None else (away >= 0) & (away < window)


@lru_cache(maxsize=8)
def block_mask(trees: Trees, causal: bool, window: int | None, device: torch.device) -> Any:
    """The same visibility as a FlexAttention block mask; all layers of a model share it."""
    tree: list[int] = []
    branch: list[int] = []
    place: list[int] = []
    for n, (prompt, *responses) in enumerate(trees):
        tree += [n] * (prompt + sum(responses))
        branch += [0] * prompt
        place += range(prompt)
        for b, length in enumerate(responses, start=1):
            branch += [b] * length
            place += range(prompt, prompt + length)
    trees_, branches, places = (torch.tensor(x, device=device) for x in (tree, branch, place))

    def visible(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        seen = (trees_[q] == trees_[kv]) & _sees(places[q] - places[kv], causal, window)
        return seen & ((branches[kv] == 0) | (branches[kv] == branches[q])) if causal else seen

    # Compiled it never forms the [S, S] mask.
    compiled = device.type == "cuda"
    return create_block_mask(visible, None, None, len(tree), len(tree), device=str(device), _compile=compiled)
