"""The demo's small language model: its tokenizer, its supervised training, and samples from it and its successors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import (
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from mmpo.batch.pack import pack
from mmpo.batch.tokenize import Encoded
from mmpo.demo.task import WORDS
from mmpo.types import Tokens

SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
LONGEST = 64
"""Tokens of prompt and answer together that the model has room for."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token a word; decoding gives the words back between spaces."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL.values(), *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LONGEST, **SPECIAL)


def make_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Two layers, 92,000 weights. Their initial spread is wide: at this width the usual 0.02 learns much slower."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        initializer_range=0.08,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


def make_reference(
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[tuple[str, str]],
    out: Path,
    steps: int = 2000,
    seed: int = 0,
) -> LlamaForCausalLM:
    """Train a fresh model on (prompt, answer) pairs, with the loss on the answer alone, and save it in ``out``."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(make_config(tokenizer))
    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=32,
        max_steps=steps,
        learning_rate=4e-3,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 20,
        weight_decay=0.01,
        logging_steps=max(1, steps // 20),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=seed,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=[_encode(tokenizer, *example) for example in examples],
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    return model


def _encode(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> dict[str, list[int]]:
    before, after = tokenizer(prompt).input_ids, [*tokenizer(answer).input_ids, tokenizer.eos_token_id]
    return {"input_ids": before + after, "labels": [-100] * len(before) + after}


@dataclass(frozen=True)
class Samples:
    """One answer to each prompt, as text and as the very tokens that were drawn."""

    texts: list[str]
    tokens: Tokens


@torch.no_grad()
def sample(model: Any, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], seed: int = 0) -> Samples:
    """Draw one answer to each prompt from the model as it is: temperature 1, nothing cut off."""
    inputs = tokenizer(list(prompts), padding=True, padding_side="left", return_tensors="pt")
    start = inputs.input_ids.shape[1]
    was_training = model.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = model.eval().generate(
            **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=LONGEST - start
        )
    model.train(was_training)
    answers = drawn[:, start:]
    ended = (answers == tokenizer.eos_token_id).long()
    real = ended.cumsum(-1) - ended == 0
    rows = [
        (prompt[seen.bool()].tolist(), answer[kept].tolist())
        for prompt, seen, answer, kept in zip(inputs.input_ids, inputs.attention_mask, answers, real, strict=True)
    ]
    return Samples(
        [tokenizer.decode(answer, skip_special_tokens=True) for _, answer in rows],
        pack([Encoded("", tuple(prompt), (tuple(answer),)) for prompt, answer in rows], 1, tokenizer.pad_token_id),
    )
