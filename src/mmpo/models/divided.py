"""Models whose weights FSDP or DeepSpeed divide among processes: frozen ones divided too, trained ones made whole."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from torch import nn

from mmpo.models.padded import innermost
from mmpo.models.reference import FrozenCopy


def form_of(model: nn.Module) -> Any:
    """The model without its weights, which takes no memory: what ``made_whole`` puts them into.

    To be taken before the model is divided, which changes its modules.
    """
    bare = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, bare)


def made_whole(form: Any, model: Any, accelerator: Accelerator) -> Any:
    """An ordinary model in main memory with the weights of a divided one. All processes must call it.

    Only the first process has it, the others get None.
    """
    weights = accelerator.get_state_dict(model)
    if not accelerator.is_main_process:
        return None
    # A weight that two modules share stands here under both names.
    form.load_state_dict(weights, strict=False, assign=True)
    innermost(form).tie_weights()
    missing = [name for name, p in form.named_parameters() if p.is_meta]
    if missing:
        raise RuntimeError(f"the divided model did not give the weights of {', '.join(missing)}")
    return form


def divide_frozen(reader: Any, accelerator: Accelerator) -> None:
    """Divide the frozen models that a reader asks as FSDP2 divides the trained one, so that they take less memory.

    DeepSpeed has nothing for a model without an optimiser but its inference engine, so there they stay whole.
    """
    if accelerator.is_fsdp2:
        for model in frozen_models(reader):
            fsdp2_prepare_model(accelerator, model)


def frozen_models(reader: Any) -> Iterator[Any]:
    """The models that a reader asks beside the trained one."""
    reference = getattr(reader, "reference", None)
    if isinstance(reference, FrozenCopy):
        yield reference.model
    yield from getattr(reader, "teachers", {}).values()
    if getattr(reader, "encoder", None) is not None:
        yield reader.encoder
