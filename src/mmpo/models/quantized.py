"""A frozen base of 4 or 8 bits a weight (bitsandbytes), under an adapter of full precision.

QLoRA, Dettmers et al. 2023 (arXiv:2305.14314): NF4 with doubly quantised scales; 8 bits as in LLM.int8(), Dettmers et
al. 2022 (arXiv:2208.07339). What is not quantised (embeddings, norms, the head) keeps the dtype of the recipe: float32
unless it says otherwise, as peft prepares models for such training.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig, TrainingArguments

from mmpo.errors import UserError
from mmpo.run.record import read_record, run_of

Bits = Literal["4bit", "8bit"]

_HEADS = ["score", "classifier"]
"""What peft trains of a sequence classifier beside the adapter."""


@dataclass(frozen=True)
class Quantized:
    """How a base is quantised.

    Attributes:
        bits: of a weight.
        compute: the dtype of its products, by name; 8 bits always compute in float16.
    """

    bits: Bits
    compute: str

    @classmethod
    def of(cls, bits: Bits, dtype: str, args: TrainingArguments | None) -> Quantized:
        """What a recipe asks for: products in the precision of the run. Raises UserError where it cannot be."""
        check_can("cpu" if args is None else args.device.type)
        half = "bfloat16" if args is not None and args.bf16 else "float16" if args is not None and args.fp16 else dtype
        return cls(bits, "float16" if bits == "8bit" else half)

    @classmethod
    def recorded(cls, name: str) -> Quantized | None:
        """How the base of a run was quantised, from the run's folder or that of a checkpoint; else None."""
        said: Mapping[str, Any] | None = read_record(run_of(name)).get("quantize")
        return None if said is None else cls(**said)

    def record(self) -> dict[str, str]:
        return asdict(self)

    def options(self, classifier: bool, device: torch.device | str) -> dict[str, Any]:
        """What ``from_pretrained`` needs to quantise a model while it loads it. Raises UserError where it cannot."""
        check_can(torch.device(device).type)
        # A list replaces what transformers would leave whole by itself: the head of a language model.
        whole = _HEADS if classifier else None
        if self.bits == "8bit":
            config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
        else:
            config = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=getattr(torch, self.compute),
                llm_int8_skip_modules=whole,
            )
        return {"quantization_config": config, "device_map": {"": torch.device(device)}}


def check_quantize(bits: str | None, lora: Mapping[str, Any] | None) -> None:
    """Raise UserError for quantised weights that would be trained themselves."""
    if bits is not None and lora is None:
        raise UserError(f"quantize: {bits} freezes the weights, so nothing would be trained; add lora: {{r: 16}}")


def check_can(device: str) -> None:
    """Raise UserError where quantised weights cannot be read."""
    if find_spec("bitsandbytes") is None:
        raise UserError("quantize needs bitsandbytes; pip install 'mmpo[quantize]', or leave quantize out")
    can = import_module("bitsandbytes").supported_torch_devices
    if device not in can:
        raise UserError(
            f"quantize: bitsandbytes cannot compute on {device} (it can on {', '.join(sorted(can))}); leave it out"
        )


def is_quantized(model: Any) -> bool:
    """Whether a model's weights are quantised."""
    return getattr(getattr(model, "config", None), "quantization_config", None) is not None


def steady(model: Any) -> Any:
    """A model that computes the same in evaluation as in training, if it is quantised.

    On some CPUs bitsandbytes would, at the first reading without gradients, round the scales of 4-bit weights in place
    and compute in bfloat16: the reference would not be the policy that training starts from.
    """
    if is_quantized(model):
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        # It says at every product that it computes in float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return model


def without_adapter(model: Any) -> Any:
    """The quantised base of a model with an adapter, as a module of its own that shares the weights."""
    shared = {id(p): p for p in model.parameters()}
    # Where 8-bit weights lie once they have been read.
    shared |= {id(module.state): module.state for module in model.modules() if hasattr(module, "state")}
    return copy.deepcopy(model, shared).unload()
