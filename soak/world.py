"""A world in which runs take seconds: tiny models, and graded rows of unlike length."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedTokenizerFast,
    set_seed,
)

WORDS = 320


def world(folder: Path, prompts: int = 45) -> Path:
    """Tiny models with their tokenizer, and graded rows of unlike length."""
    draw = random.Random(1)

    def text() -> str:
        return " ".join(f"w{draw.randrange(3, WORDS)}" for _ in range(draw.randint(2, 30)))

    def row() -> dict[str, Any]:
        k = draw.randint(2, 4)
        grades = [round(draw.random(), 3) for _ in range(k)]
        return {"prompt": text() + " ", "responses": [text() for _ in range(k)], "scores": grades}

    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{n}": n for n in range(3, WORDS)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    for name, tied, kind in (
        ("policy", False, AutoModelForCausalLM),
        ("tied", True, AutoModelForCausalLM),
        ("reward", False, AutoModelForSequenceClassification),
    ):
        set_seed(5)
        config = LlamaConfig(
            vocab_size=WORDS,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            num_labels=1,
        )
        kind.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name, count in (("rows", prompts), ("held_out", 11)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row()) + "\n" for _ in range(count)))
    return folder
