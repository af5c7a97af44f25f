"""A policy from end to end on real data: a small decoder from a config on judged pairs of answers.

A tokenizer and a small language model are trained on the training answers; the model is then tuned with DPO and with
MMPO on the same pairs, and its implicit reward is measured on held-out prompts against the judge's probabilities.
A model of this size writes no sense: what is measured is whether the road holds and what happens to calibration.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
)

from evidence.common import DATA, METRICS, over_seeds, paired, table, write
from mmpo.data import Source, load
from mmpo.evaluate.model import evaluate_model
from mmpo.evaluate.scoring import Scorer
from mmpo.recipe import make_recipe
from mmpo.train import train_recipe

PAIRS = str(DATA / "alpaca_eval_gpt4turbo_pairs.jsonl.gz")
METHODS: dict[str, dict[str, Any]] = {
    "dpo": {"name": "dpo", "beta": 0.1},
    "mmpo": {"name": "mmpo", "gamma": "auto", "beta": 0.1},
}
LENGTH = 256
EPOCHS = (1, 3)
SEEDS = (0, 1, 2)


def tokenizer_of(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 4,000 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|pad|>", "<|end|>"]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=4000, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")


def language_model(texts: list[str], folder: Path, seed: int) -> None:
    """A decoder of four layers and width 128, trained on the texts for two epochs."""
    torch.manual_seed(seed)
    tokenizer = tokenizer_of(texts)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    Trainer(
        model,
        TrainingArguments(
            output_dir=str(folder / "state"),
            num_train_epochs=2,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            seed=seed,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.accelerator.is_available(),
        ),
        train_dataset=[tokenizer(text, truncation=True, max_length=LENGTH) for text in texts],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    ).train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(method: dict[str, Any], base: Path, seed: int, epochs: int, folder: Path) -> dict[str, Any]:
    """Train by recipe, evaluate by the saved model, as a user would."""
    recipe = make_recipe(
        {
            "model": str(base),
            "method": method,
            "data": {"path": PAIRS, "split": "train"},
            "shape": {"max_responses": 3},
            "output_dir": str(folder),
            "reference": "cached",
            "max_length": LENGTH,
            "max_prompt_length": 128,
            "num_train_epochs": epochs,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-4,
            "seed": seed,
            "save_strategy": "no",
            "logging_steps": 50,
        }
    )
    train_recipe(recipe)
    held_out = Source(PAIRS, split="validation")
    overall = evaluate_model(Scorer.load(str(folder)), held_out, folder / "report", name=str(folder))["overall"]
    return {metric: overall[metric]["value"] for metric in METRICS}


def main() -> None:
    some = load(Source(PAIRS, split="train")).data[::20]
    texts = [f"user: {d.prompt}\nassistant: {response}" for d in some for response in d.responses]
    runs: list[dict[str, Any]] = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / "base"
            language_model(texts, base, seed)
            for name, method in METHODS.items():
                for epochs in EPOCHS:
                    measured = run(method, base, seed, epochs, Path(folder) / f"{name}-{epochs}")
                    runs.append({"method": name, "seed": seed, "epochs": epochs, **measured})
        means = over_seeds(runs, ("method", "epochs"), METRICS)
        differences = [{"method": "mmpo", **row} for row in paired(runs, "mmpo", "dpo", ("epochs",), METRICS)]
        write("policy", {"runs": runs, "means": means, "minus hard": differences})
    print(table(means, ("method", "epochs"), METRICS))
