"""What both sides train on: a small decoder from a config, and text of natural lengths."""

from __future__ import annotations

import random
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 32_000
MAX_LENGTH = 512


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, so that lengths are exact."""
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{n}": n for n in range(3, VOCABULARY)}}
    out = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    out.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=out, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def policy(seed: int = 0) -> Qwen2ForCausalLM:
    """Qwen2 architecture: width 256, 6 layers, vocabulary 32,000, tied."""
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def rows(prompts: int, responses: int, seed: int = 0) -> list[dict[str, Any]]:
    """Prompts with a lognormal length of median 150 tokens, responses of median 130, and a grade for each response."""
    draw = random.Random(seed)

    def text(median: float, most: int) -> str:
        length = min(most, max(4, round(draw.lognormvariate(0, 0.5) * median)))
        return " ".join(f"w{draw.randrange(3, VOCABULARY)}" for _ in range(length))

    return [
        {
            "prompt": f"{text(150, 256)} ",
            "responses": [text(130, 254) for _ in range(responses)],
            "scores": [float(draw.random()) for _ in range(responses)],
        }
        for _ in range(prompts)
    ]
