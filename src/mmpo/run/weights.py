"""The model of a run, as its method needs it: loaded or given, with or without dropout and adapter, on its device."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from transformers import TrainingArguments

from mmpo.errors import UserError
from mmpo.models.load import (
    as_policy,
    as_reward_model,
    has_dropout,
    load_policy,
    load_reward_model,
    without_dropout,
)
from mmpo.models.lora import adapted
from mmpo.models.quantized import Quantized
from mmpo.types import Method


def loaded(
    model: Any,
    tokenizer: Any,
    method: Method,
    voices: int,
    dtype: str | None,
    trust_remote_code: bool,
    quantized: Quantized | None,
    args: TrainingArguments | None,
) -> Any:
    """A policy or a reward model, by name or as it is given, for so many voices. Raises UserError where it is none."""
    reward, outputs = method.task == "reward", method.score.outputs(voices)
    if isinstance(model, str):
        load = partial(load_reward_model, outputs=outputs) if reward else load_policy
        device = "cpu" if args is None else args.device
        return load(model, tokenizer, dtype or "float32", trust_remote_code, quantized, device)
    if quantized is not None:
        raise UserError("quantize is for a model loaded by name; this one is loaded already, so leave quantize out")
    if dtype is not None:
        raise UserError("dtype is for a model loaded by name; this one is loaded already, so convert it yourself")
    return as_reward_model(model, tokenizer, outputs) if reward else as_policy(model, tokenizer)


def made_trainable(
    model: Any, method: Method, lora: Mapping[str, Any] | None, disable_dropout: bool, args: TrainingArguments | None
) -> Any:
    """The model without dropout or with it, under an adapter or not, on the device of the run."""
    if disable_dropout:
        without_dropout(model)
    elif not has_dropout(model):
        raise UserError("disable_dropout: false has no effect, since the model has no dropout; leave it out")
    if lora is not None:
        model = adapted(model, lora, method.task)
    if args is not None:
        model.to(args.device)
    return model
