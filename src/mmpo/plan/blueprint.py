"""A model without its weights: what its config alone says of its size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from mmpo.errors import UserError, first_line
from mmpo.models.load import load_config, without_dropout
from mmpo.models.lora import adapted
from mmpo.models.packed import Layout, unfit
from mmpo.models.padded import innermost

QUANTIZED = {"4bit": 0.5 + 4 / 64, "8bit": 1.0}
"""Bytes of a quantised weight. In 4 bits each block of 64 has a scale in fp32; what 8 bits have for a row is little."""

HALF = 2
"""Bytes of a number in bf16 or fp16."""


@dataclass(frozen=True)
class Blueprint:
    """A model by its config, and how it is to be trained.

    Attributes:
        name: what the user calls it.
        config: of transformers.
        task: "policy", or "reward" for a model with one label.
        dtype: of the weights.
        lora: keys of peft.LoraConfig, or None for full training.
        quantize: "4bit" or "8bit" of the frozen base under LoRA.
        trust_remote_code: whether code that comes with the config may be run.
    """

    name: str
    config: Any
    task: str = "policy"
    dtype: str = "float32"
    lora: Mapping[str, Any] | None = None
    quantize: str | None = None
    trust_remote_code: bool = False

    def build(self, layers: int | None = None, dtype: str | None = None) -> Any:
        """The model on whatever device stands for "no memory at all": meta, or fake tensors."""
        kind = AutoModelForCausalLM if self.task == "policy" else AutoModelForSequenceClassification
        config = shortened(self.config, layers)
        if self.task == "reward":
            config.num_labels = 1
        further = {"trust_remote_code": True} if self.trust_remote_code else {}
        model = without_dropout(kind.from_config(config, dtype=getattr(torch, dtype or self.dtype), **further))
        return model if self.lora is None else adapted(model, self.lora, self.task)

    @cached_property
    def layers(self) -> int:
        return int(self.config.get_text_config().num_hidden_layers)

    @cached_property
    def outline(self) -> Any:
        """The whole model on the meta device. Raises UserError where no such model can be built."""
        try:
            with torch.device("meta"):
                return self.build()
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(f"model: {self.name} cannot be built from its config ({first_line(error)})") from error

    @cached_property
    def anatomy(self) -> Anatomy:
        """What it is made of."""
        return Anatomy.of(self.outline, self.quantize)


def read_config(name: str, trust_remote_code: bool = False) -> Any:
    """The config of a folder, of a config.json, or of a hub id. Raises UserError where there is none."""
    if not Path(name).is_file():
        return load_config(name, trust_remote_code)
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model: {name} is no config of a model ({first_line(error)})") from error


def shortened(config: Any, layers: int | None) -> Any:
    """The config with fewer layers; what it lists for each layer is cut with them."""
    config = deepcopy(config)
    if layers is None:
        return config
    inner = config.get_text_config()
    whole = inner.num_hidden_layers
    for name, value in list(vars(inner).items()):
        if isinstance(value, list) and len(value) == whole:
            setattr(inner, name, value[:layers])
    inner.num_hidden_layers = layers
    return config


@dataclass(frozen=True)
class Anatomy:
    """The sizes that memory and time hang on. All counts are of numbers, all ``bytes`` of bytes.

    Attributes:
        architecture: class of the model.
        parameters, trained: all of them, and those that are trained.
        weight_bytes: of all weights as they are stored.
        trained_bytes: of the trained ones.
        factored: numbers that Adafactor keeps: a row and a column of each matrix, and every number of a vector.
        largest: the largest trained weight.
        block, rest: the largest layer, and what is in no layer (embeddings, head).
        blocks: how many layers there are.
        uniform: whether all layers are of one size.
        products: weights of matrix products in the layers that one token meets, and the trained ones of them.
        head: weights of the vocabulary's product; 0 for a reward model.
        head_trained: whether they are trained.
        vocabulary: words that a policy scores; 0 for a reward model.
        attention: heads times their size, summed over the layers.
        layout: the best one that can be assumed without trying.
    """

    architecture: str
    parameters: int
    trained: int
    weight_bytes: float
    trained_bytes: int
    factored: int
    largest: int
    block: int
    rest: int
    blocks: int
    uniform: bool
    products: float
    products_trained: float
    head: int
    head_trained: bool
    vocabulary: int
    attention: int
    layout: Layout

    @classmethod
    def of(cls, model: Any, quantize: str | None = None) -> Anatomy:
        inner = innermost(model)
        config = inner.config.get_text_config()
        stack = blocks(inner)
        in_blocks = {id(p) for block in stack for p in block.parameters()}
        weights = list(model.parameters())
        trained = [p for p in weights if p.requires_grad]
        sizes = [sum(p.numel() for p in block.parameters()) for block in stack]
        head = inner.get_output_embeddings()
        active = [(p, _share(p, config)) for block in stack for p in _products(block)]
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            architecture=type(inner).__name__,
            parameters=sum(p.numel() for p in weights),
            trained=sum(p.numel() for p in trained),
            weight_bytes=sum(_stored(p, id(p) in in_blocks, quantize) for p in weights),
            trained_bytes=sum(p.nbytes for p in trained),
            factored=sum(_factored(p) for p in trained),
            largest=max((p.numel() for p in trained), default=0),
            block=max(sizes, default=0),
            rest=sum(p.numel() for p in weights if id(p) not in in_blocks),
            blocks=len(stack),
            uniform=len(set(sizes)) <= 1,
            products=sum(p.numel() * share for p, share in active),
            products_trained=sum(p.numel() * share for p, share in active if p.requires_grad),
            head=0 if head is None else head.weight.numel(),
            head_trained=head is not None and head.weight.requires_grad,
            vocabulary=0 if head is None else head.weight.shape[0],
            attention=len(stack) * config.num_attention_heads * size,
            layout=_layout(inner),
        )


def blocks(inner: Any) -> list[nn.Module]:
    """The layers of a transformer: its longest list of modules."""
    lists = [module for module in inner.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=lambda one: (len(one), sum(p.numel() for p in one.parameters())), default=()))


def _products(block: nn.Module) -> Iterator[Tensor]:
    """The weights of matrix products: matrices, and the stacked matrices of experts."""
    return (p for p in block.parameters() if p.dim() >= 2)


def _share(weight: Tensor, config: Any) -> float:
    """The share of a weight that one token meets: of stacked experts only the chosen ones."""
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None) or 0
    return config.num_experts_per_tok / experts if weight.dim() == 3 and weight.shape[0] == experts else 1.0


def _stored(weight: Tensor, in_block: bool, quantize: str | None) -> float:
    frozen = in_block and weight.dim() == 2 and not weight.requires_grad
    return weight.numel() * QUANTIZED[quantize] if quantize and frozen else weight.nbytes


def _factored(weight: Tensor) -> int:
    if weight.dim() < 2:
        return weight.numel()
    return weight.numel() // weight.shape[-1] + weight.numel() // weight.shape[-2]


def _layout(inner: Any) -> Layout:
    """A run tries it out on the weights; without any, an encoder is known not to share prompts."""
    if unfit(inner) is not None:
        return "padded"
    both_ways = any(getattr(module, "is_causal", True) is False for module in inner.modules())
    return "separate" if both_ways else "shared"
