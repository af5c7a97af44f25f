"""Policies: token log-probs of the responses. Logits never leave this room."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from mmpo.batch.collate import Collator, Example, by_length
from mmpo.models.grid import in_chunks, to_grid
from mmpo.types import Batch, Reading, Tokens


def response_logps(model: Any, tokens: Tokens) -> Tensor:
    """log pi(y|x) of each sequence, summed over its response tokens in fp32: Tokens [N, T] -> [N]."""
    return in_chunks(lambda chunk: _logps(model, chunk), tokens)


def _logps(model: Any, tokens: Tokens) -> Tensor:
    """[n, t] -> [n]. Logits are asked for from the first response token of the batch on, where the model can
    leave out the rest. A token with nothing before it has no probability and is not scored.
    """
    start = max(1, int(tokens.response_mask.argmax(-1).min()))
    keep = tokens.input_ids.shape[1] - start + 1
    partial = {"logits_to_keep": keep} if _can_keep(model) else {}
    logits = model(
        input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, use_cache=False, **tokens.extra, **partial
    ).logits
    labels = tokens.input_ids[:, start:]
    predicted = logits[:, -keep:-1].float()
    logps = -cross_entropy(predicted.transpose(1, 2), labels, reduction="none")
    return torch.where(tokens.response_mask[:, start:] > 0, logps, 0.0).sum(-1)


def _can_keep(model: Any) -> bool:
    inner = model.module if hasattr(model, "module") else model
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


class Reference(Protocol):
    """Where the reference's log-probs come from while the policy trains."""

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        """The policy (some references hide inside it) and a batch -> [B, K] log-probs without gradient."""
        ...


@dataclass(frozen=True)
class FrozenCopy:
    """A second model that never changes."""

    model: Any

    @classmethod
    def of(cls, model: Any) -> FrozenCopy:
        return cls(copy.deepcopy(model).requires_grad_(False).eval())

    @torch.no_grad()
    def __call__(self, model: Any, batch: Batch) -> Tensor:
        self.model.to(batch.tokens.input_ids.device)
        return to_grid(response_logps(self.model, batch.tokens), batch)


@dataclass(frozen=True)
class AdapterOff:
    """The policy itself with its adapter switched off: no second model in memory."""

    @torch.no_grad()
    def __call__(self, model: Any, batch: Batch) -> Tensor:
        inner = model.module if hasattr(model, "module") else model
        was_training = inner.training
        off = inner.disable_adapter()
        try:
            inner.eval()
            with off:
                return to_grid(response_logps(model, batch.tokens), batch)
        finally:
            inner.train(was_training)


@dataclass(frozen=True)
class PolicyReader:
    """Reads log-probs from a causal language model, and from its reference where the batch does not know them yet."""

    reference: Reference | None = None

    def __call__(self, model: Any, batch: Batch) -> Reading:
        ref = batch.ref_logps
        if ref is None and self.reference is not None:
            ref = self.reference(model, batch)
        return Reading(
            mask=batch.evidence.mask,
            logps=to_grid(response_logps(model, batch.tokens), batch),
            ref_logps=ref,
            lengths=to_grid(batch.tokens.response_mask.sum(-1), batch),
        )


@torch.no_grad()
def cache_reference(model: Any, examples: Sequence[Example], tokenizer: Any) -> list[Example]:
    """Examples with the reference's log-probs, computed once from the model as it stands, adapter off."""
    reference: Reference = AdapterOff() if hasattr(model, "disable_adapter") else FrozenCopy(model)
    collator = Collator.of(tokenizer)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    out: list[Example] = list(examples)
    for chunk in tqdm(by_length(examples), desc="reference log-probs", unit="batch"):
        logps = reference(model, collator.batch([examples[n] for n in chunk]).to(device)).cpu()
        for row, n in zip(logps, chunk, strict=True):
            out[n] = replace(examples[n], ref_logps=row[: len(examples[n].encoded.responses)])
    model.train(was_training)
    return out
