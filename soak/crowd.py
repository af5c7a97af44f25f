"""Generated prompts with four graded responses each, as many as are asked for, and a tiny model that reads them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

K = 4
_BLOCK = 1000
"""Prompts that are drawn at once; a file of more prompts begins with those of a file of fewer."""

_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in ("a", "e", "i", "o", "u", "ai", "en")]


def words() -> np.ndarray:
    """20,000 words, the frequent ones short."""
    draw = np.random.default_rng(0)
    found = dict.fromkeys(
        "".join(draw.choice(_SYLLABLES, 1 + int(n > 100) + int(n > 3000) + draw.integers(2))) for n in range(60_000)
    )
    return np.array(list(found)[:20_000])


def rows(n: int) -> Iterator[dict[str, Any]]:
    """Prompts of 30 to 60 words with responses of 10 to 25 and grades from 1 to 10; words fall off as in any text."""
    vocabulary = words()
    share = 1 / np.arange(2, len(vocabulary) + 2)
    share /= share.sum()
    ends = share.cumsum()
    for block in range(-(-n // _BLOCK)):
        draw = np.random.default_rng(block)
        lengths = np.column_stack([draw.integers(30, 61, _BLOCK), draw.integers(10, 26, (_BLOCK, K))])
        text = vocabulary[np.minimum(ends.searchsorted(draw.random(lengths.sum())), len(vocabulary) - 1)]
        grades = draw.integers(1, 11, (_BLOCK, K)).tolist()
        at = np.concatenate([[0], lengths.ravel().cumsum()]).tolist()
        for row in range(min(_BLOCK, n - block * _BLOCK)):
            first = row * (K + 1)
            prompt, *responses = (" ".join(text[at[i] : at[i + 1]]) for i in range(first, first + K + 1))
            yield {"prompt": f"{block * _BLOCK + row}: {prompt}\n", "responses": responses, "scores": grades[row]}


def write_rows(path: Path, n: int) -> Path:
    """The prompts as .jsonl, .jsonl.gz or .parquet, never more than a block of them in memory."""
    if path.suffix == ".parquet":
        _write_parquet(path, n)
    else:
        with gzip.open(path, "wt", compresslevel=1) if path.suffix == ".gz" else path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows(n))
    return path


def _write_parquet(path: Path, n: int) -> None:
    texts = pa.list_(pa.string())
    schema = pa.schema([("prompt", pa.string()), ("responses", texts), ("scores", pa.list_(pa.int64()))])
    given = rows(n)
    with pq.ParquetWriter(path, schema) as out:
        while block := list(islice(given, _BLOCK)):
            out.write_batch(pa.RecordBatch.from_pylist(block, schema))


def write_pairs(path: Path, n: int, pairs: int) -> Path:
    """The same as rows of a prompt, a chosen and a rejected response, so many of a prompt; equal grades count too."""
    with path.open("w") as file:
        for row in rows(n):
            for i, j in list(combinations(range(K), 2))[:pairs]:
                better, worse = (i, j) if row["scores"][i] >= row["scores"][j] else (j, i)
                said = {"chosen": row["responses"][better], "rejected": row["responses"][worse]}
                file.write(json.dumps({"prompt": row["prompt"], **said}) + "\n")
    return path


def make_model(folder: Path) -> Path:
    """A policy of two narrow layers, and a byte-level BPE of 8,000 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((row["prompt"] for row in rows(3000)), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        pad_token_id=fast.pad_token_id,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
