"""Saving a model so that everybody's loader gives the same numbers."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpo.models.quantized import is_quantized, without_adapter

OLDER_ROPE = {
    "rope_theta": ("rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct"),
}
"""What transformers 4 calls the entries of ``rope_parameters``; the second name is GPT-NeoX's."""


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """The whole model and its tokenizer into a folder.

    A LoRA adapter is merged into its base, so that the folder loads anywhere, and kept as it was in ``adapter/``. Into
    a quantised base it cannot be merged without loss; there both lie side by side, and transformers loads them as one.
    """
    if is_quantized(model):
        model.save_pretrained(folder)
        model = without_adapter(model)
    elif hasattr(model, "merge_and_unload"):
        model.save_pretrained(folder / "adapter")
        model = _merged(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _for_older_readers(folder, tokenizer.model_input_names)


def _merged(model: Any) -> Any:
    """A merged copy in main memory, so that the trained model stays what it was: adapter on, adapter off."""
    device = next(model.parameters()).device
    merged = copy.deepcopy(model.to("cpu")).merge_and_unload()
    model.to(device)
    return merged


def _for_older_readers(folder: Path, inputs: Sequence[str]) -> None:
    """Keep the keys that transformers 4 reads beside those that transformers 5 writes.

    Without the rope keys an older reader would take its defaults and give other numbers in silence; without the names
    of the model's inputs it would pass token types to a model that has none; and it does not know the tokenizer class
    that transformers 5 names.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.get("rope_parameters") or {}
    for key, older in OLDER_ROPE.items():
        if key in rope:
            config |= {name: rope[key] for name in older if name not in config}
    if rope.get("rope_type", "default") != "default":
        config.setdefault("rope_scaling", {k: v for k, v in rope.items() if k not in OLDER_ROPE})
    if "dtype" in config:
        config.setdefault("torch_dtype", config["dtype"])
    path.write_text(json.dumps(config, indent=2) + "\n")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.setdefault("model_input_names", list(inputs))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
