"""What can be measured: models from a config, text of natural lengths, real votes, and sides that train on them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import torch
from evidence.common import DATA
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from mmpo.data import Source, load, merge
from mmpo.errors import UserError
from mmpo.models.packed import Layout
from mmpo.types import Datum

SPECIAL = {"<pad>": 0, "<eos>": 1, "<unk>": 2}


# ---------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class Shape:
    """A decoder of the Qwen2 architecture with tied embeddings."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int

    @property
    def config(self) -> Qwen2Config:
        return Qwen2Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            pad_token_id=SPECIAL["<pad>"],
            eos_token_id=SPECIAL["<eos>"],
            bos_token_id=None,
        )

    def policy(self) -> Any:
        """The same weights at every call."""
        torch.manual_seed(0)
        return Qwen2ForCausalLM(self.config)

    def reward_model(self) -> Any:
        torch.manual_seed(0)
        config = self.config
        config.num_labels = 1
        return AutoModelForSequenceClassification.from_config(config)


SMALL = Shape(256, 6, 4, 2, 704, 32_000)
TINY = Shape(64, 2, 2, 1, 128, 32_000)
QWEN = Shape(896, 24, 14, 2, 4864, 151_936)
"""The shape of Qwen2.5-0.5B."""


def word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """One token a word, so that lengths are exact."""
    vocabulary = SPECIAL | {word: n for n, word in enumerate(words, len(SPECIAL))}
    out = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    out.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=out, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


# ---------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class Lengths:
    """Words of a text, lognormal: median and most of prompts and of responses; the end-of-text token comes on top."""

    prompt: int = 150
    prompt_most: int = 256
    response: int = 130
    response_most: int = 254
    spread: float = 0.5

    @property
    def max_length(self) -> int:
        """Room for the longest prompt with the longest response: nothing is ever cut."""
        return self.prompt_most + self.response_most + 2


def drawn(prompts: int, responses: int, lengths: Lengths, vocabulary: int, seed: int) -> list[Datum]:
    """Prompts of random words with graded responses. Of the same row, fewer responses are the first of more."""

    def row(n: int) -> Datum:
        draw = random.Random(f"{seed} {n}")

        def text(median: float, most: int) -> str:
            words = min(most, max(4, round(median * draw.lognormvariate(0, lengths.spread))))
            return " ".join(f"w{draw.randrange(len(SPECIAL), vocabulary)}" for _ in range(words))

        prompt = text(lengths.prompt, lengths.prompt_most) + " "
        said = [(text(lengths.response, lengths.response_most), draw.random()) for _ in range(responses)]
        return Datum(f"{seed} {n}", prompt, tuple(t for t, _ in said), tuple(grade for _, grade in said))

    return [row(n) for n in range(prompts)]


def voted() -> list[Datum]:
    """The arguments of ukp_convincing_arguments with all that people said of them: one datum a debate and side."""
    path = DATA / "ukp_convincing_arguments.jsonl.gz"
    if not path.is_file():
        raise UserError(f"there is no {path}; put the file there, or name its folder with MMPO_DATA")
    # The words of the prompt must not run into those of the response.
    return [replace(d, prompt=f"{d.prompt}\n") for d in merge(load(Source(str(path))).data)[0]]


def compared(datum: Datum) -> list[tuple[int, int]]:
    """The pairs that somebody compared, the better response first; of a tie the first."""
    if datum.grades is not None:
        grades = datum.grades
        every = combinations(range(len(grades)), 2)
        return [(i, j) if float(grades[i] or 0) >= float(grades[j] or 0) else (j, i) for i, j in every]
    share: dict[tuple[int, int], float] = {}
    for said in datum.judgements:
        lead = (float(said.p or 0) - 0.5) * said.count
        pair, lead = (
            ((said.first, said.second), lead) if said.first < said.second else ((said.second, said.first), -lead)
        )
        share[pair] = share.get(pair, 0.0) + lead
    return [(i, j) if lead >= 0 else (j, i) for (i, j), lead in share.items()]


# ---------------------------------------------------------------------------------------------- workloads


@dataclass(frozen=True)
class Side:
    """One way to train: ours or the peer's, with ``prompts`` x ``responses`` a step.

    ``steps`` batches are timed, ``repeats`` times over; ``pieces`` is how often the peer accumulates gradients within
    a step; ``pairs`` is the peer's batch where it reads a random sample of the pairs.
    """

    peer: bool = False
    layout: Layout | None = None
    prompts: int = 8
    responses: int = 2
    steps: int = 2
    repeats: int = 1
    pieces: int = 1
    pairs: int | None = None

    def smaller(self) -> Side:
        less = max(1, self.prompts // 4)
        return replace(self, prompts=less, steps=1, repeats=1, pieces=min(self.pieces, less), pairs=self.pairs and 8)


@dataclass(frozen=True)
class Target:
    """What a workload should reach: ``metric`` of its summary, in one precision or in each."""

    metric: str
    bound: float
    least: bool = True
    precision: str | None = None

    def met(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound


@dataclass(frozen=True)
class Workload:
    """Sides that train on the same rows, one after the other, ``turns`` times.

    ``versus`` names the sides whose pairs a second are compared; ``data`` are drawn or votes; ``measure`` says whether
    steps are timed or a run is made again; ``warm`` steps of each side are not timed.
    """

    title: str
    sides: Mapping[str, Side]
    task: str = "policy"
    versus: tuple[str, str] | None = ("mmpo", "trl")
    lengths: Lengths = field(default_factory=Lengths)
    data: str = "drawn"
    cached: bool = False
    measure: str = "steps"
    shape: Shape = SMALL
    precisions: tuple[str, ...] = ("fp32", "bf16")
    turns: int = 3
    warm: int = 1
    targets: tuple[Target, ...] = ()

    @property
    def max_length(self) -> int:
        return self.lengths.max_length

    def smaller(self) -> Workload:
        """The same in seconds, to see that it runs; its figures mean nothing."""
        sides = {name: side.smaller() for name, side in self.sides.items()}
        return replace(self, sides=sides, shape=TINY, turns=1)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        if self.data == "votes":
            texts = [str(text) for d in voted() for text in (d.prompt, *d.responses)]
            return word_tokenizer(sorted({word for text in texts for word in text.split()}))
        return word_tokenizer([f"w{n}" for n in range(len(SPECIAL), self.shape.vocabulary)])

    def model(self) -> Any:
        return self.shape.policy() if self.task == "policy" else self.shape.reward_model()

    def rows(self, side: Side) -> tuple[list[Datum], list[Datum]]:
        """The rows that warm up, and those that are timed, which are the same for all sides."""
        if self.data == "votes":
            data = voted()
            return data[: side.prompts], data
        vocabulary = self.shape.vocabulary
        return (
            drawn(side.prompts * self.warm, side.responses, self.lengths, vocabulary, seed=1),
            drawn(side.prompts * side.steps, side.responses, self.lengths, vocabulary, seed=0),
        )
