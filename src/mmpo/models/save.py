"""Saving a model so that everybody's loader gives the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """The whole model and its tokenizer into a folder.

    A LoRA adapter is merged into its base, so that the folder loads anywhere, and kept as it was in ``adapter/``.
    """
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(folder / "adapter")
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _for_older_readers(folder)


def _for_older_readers(folder: Path) -> None:
    """Keep the keys that transformers 4 reads beside those that transformers 5 writes.

    Without ``rope_theta`` an older reader would take its default base and give other numbers in silence; it does not
    know the tokenizer class that transformers 5 names.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            config.setdefault("rope_scaling", {k: v for k, v in rope.items() if k != "rope_theta"})
    if "dtype" in config:
        config.setdefault("torch_dtype", config["dtype"])
    path.write_text(json.dumps(config, indent=2) + "\n")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
