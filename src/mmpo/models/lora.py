"""A LoRA adapter from the keys of peft.LoraConfig; those that would do nothing, or undo a promise, are refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from peft import LoraConfig, get_peft_model

from mmpo.errors import UserError, first_line, nearest

_PEFT = "peft writes it by itself"
_VARIANT = "this variant of LoRA is not tried here"

IDLE_LORA = {
    "task_type": "the method says what is trained",
    "peft_type": "lora is LoRA",
    "inference_mode": "an adapter is made to be trained",
    "auto_mapping": _PEFT,
    "peft_version": _PEFT,
    "base_model_name_or_path": "model names the base",
    "revision": "model names the base",
    "fan_in_fan_out": "each layer says by itself how its weights lie",
    "bias": "trained biases stay when the adapter is switched off, so that the reference would move",
    "lora_bias": "the biases of an adapter cannot be merged into layers that have none",
    "layer_replication": "the model would have other layers than the one it starts from",
    "megatron_config": "models of Megatron are not read here",
    "megatron_core": "models of Megatron are not read here",
    "loftq_config": "init_lora_weights says how an adapter begins",
    "eva_config": "init_lora_weights says how an adapter begins",
    "corda_config": "init_lora_weights says how an adapter begins",
    "lora_ga_config": "init_lora_weights says how an adapter begins",
    "alora_invocation_tokens": _VARIANT,
    "use_qalora": _VARIANT,
    "qalora_group_size": _VARIANT,
    "velora_config": _VARIANT,
    "monteclora_config": _VARIANT,
    "use_bdlora": _VARIANT,
    "arrow_config": _VARIANT,
    "kasa_config": _VARIANT,
    "runtime_config": "it only says on which device DoRA computes its start",
}
"""Keys of LoraConfig that a recipe may not hold, and why."""

STARTS = (True, False, "gaussian", "orthogonal")
"""How an adapter may begin. Others move part of the frozen weights into it: the model without it is another one."""


def check_lora(lora: Mapping[str, Any]) -> None:
    """Raise UserError for keys that LoraConfig does not have, or that would do nothing."""
    for key in lora:
        if key not in LoraConfig.__dataclass_fields__:
            raise UserError(f"lora has no key {key!r}. {nearest(key, LoraConfig.__dataclass_fields__)}")
        if key in IDLE_LORA:
            raise UserError(f"lora: {key!r} may not be set: {IDLE_LORA[key]}; leave it out")
    start = lora.get("init_lora_weights", True)
    if not any(start is one or (isinstance(one, str) and start == one) for one in STARTS):
        raise UserError(
            f"lora: init_lora_weights is {start!r}, after which the model without its adapter is not the one that it "
            f"started from; take one of {', '.join(str(one).lower() for one in STARTS)}"
        )
    if lora.get("layers_pattern") is not None and lora.get("layers_to_transform") is None:
        raise UserError("lora: layers_pattern has no effect without layers_to_transform; add it, or leave it out")
    beside = ("modules_to_save", "trainable_token_indices")
    if lora.get("ensure_weight_tying") and not any(lora.get(key) for key in beside):
        raise UserError(f"lora: ensure_weight_tying has no effect without {' or '.join(beside)}; leave it out")


def adapted(model: Any, lora: Mapping[str, Any], task: str) -> Any:
    """The model with a fresh LoRA adapter; of a reward model the head is trained beside it.

    Raises UserError for keys that would do nothing, and for names of layers that the model does not have.
    """
    check_lora(lora)
    if hasattr(model, "disable_adapter"):
        raise UserError("the model has an adapter already; leave lora out, or give the model without it")
    kind = "SEQ_CLS" if task == "reward" else "CAUSAL_LM"
    if lora.get("ensure_weight_tying") and not model.config.get_text_config().tie_word_embeddings:
        raise UserError("lora: ensure_weight_tying has no effect, since the model ties no weights; leave it out")
    modules = [name for name, _ in model.named_modules()]
    parameters = [name for name, _ in model.named_parameters()]
    try:
        model = get_peft_model(model, LoraConfig(**{"target_modules": "all-linear", "task_type": kind, **lora}))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"lora: {first_line(error)}") from error
    trained = model.base_model.targeted_module_names
    _check_found(lora, ("target_modules", "exclude_modules", "modules_to_save"), modules)
    _check_found(lora, ("target_parameters",), parameters)
    _check_found(lora, ("rank_pattern", "alpha_pattern"), trained)
    return model


def _check_found(lora: Mapping[str, Any], keys: Iterable[str], names: Iterable[str]) -> None:
    """Raise UserError for a name among the values of these keys that fits none of the names of the model."""
    names = list(names)
    for key in keys:
        given = lora.get(key) or ()
        for said in () if given == "all-linear" else [given] if isinstance(given, str) else given:
            if not any(re.match(rf"(.*\.)?({said})$", name) or name.endswith(said) for name in names):
                known = {name.rsplit(".", 1)[-1] for name in names if not name.rsplit(".", 1)[-1].isdigit()}
                raise UserError(f"lora: {key} names {said!r}, which the model does not have. {nearest(said, known)}")
