"""Prompts that many texts begin with are read once, and the tokens are those of each text by itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from conftest import TEXT
from mmpo.batch.reading import Texts, Tokens, reads_word_by_word
from mmpo.data.texts import is_encodable
from tiny import minilm, sentencepiece_like

GPT_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def by_regex(pattern: str, *before: Any) -> Any:
    """The pre-tokenizer of Llama 3 and its like."""
    words = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([words, *before, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(pre_tokenizer: Any, normalizer: Any = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE with some merges across letters, spaces and signs, and a token of two spaces."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<pad>", "<s>", "</s>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([*TEXT, "don't we'll I'M 2024 1,000 a-b \n\n  two  spaces"] * 3, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    fast.add_tokens(["  ", "river"])
    return fast


WORD_BY_WORD = {
    "gpt-2": lambda: byte_level(GPT_2),
    "llama-3": lambda: byte_level(by_regex(LLAMA_3)),
    "qwen": lambda: byte_level(by_regex(LLAMA_3.replace("{1,3}", "")), normalizers.NFC()),
    "digits": lambda: byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), GPT_2])),
}
PIECES = st.one_of(
    st.sampled_from([" ", "  ", "\n", "'", "'s", "don't", " I'll", "a", " fox", "fox", " two", "12", " 345", "</s>"]),
    st.sampled_from(["<|user|>", "<s>", "\u0301", "é", "e", "\u1100\u1161", "\u200b", "\u00a0"]),
    st.sampled_from([" river", "ri", "ver", "🦊"]),
    st.text(max_size=3),
)
WORDS = st.lists(PIECES, max_size=8).map("".join).filter(is_encodable)


@pytest.mark.parametrize("kind", WORD_BY_WORD)
@pytest.mark.parametrize("special", [True, False])
def test_a_prompt_is_read_once_and_nothing_changes(kind: str, special: bool) -> None:
    tokenizer = WORD_BY_WORD[kind]()
    read = Tokens.of(tokenizer, special)
    assert read.by_word

    @settings(max_examples=150)
    @given(WORDS, st.lists(WORDS, max_size=3), st.sampled_from(["", "a fox", "We see "]))
    def as_each_alone(prompt: str, responses: list[str], before: str) -> None:
        prompt = before + prompt
        wholes = [prompt + response for response in responses]
        found = read([Texts([prompt] * len(wholes), wholes)])
        for text in (prompt, *wholes) if wholes else ():
            assert found[text] == tuple(tokenizer(text, add_special_tokens=special)["input_ids"]), repr(text)

    as_each_alone()


def test_of_a_long_prompt_only_the_last_word_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, seen = WORD_BY_WORD["llama-3"](), []
    read, call = Tokens.of(tokenizer, True), type(tokenizer).__call__

    def watched(self: Any, texts: list[str], **more: Any) -> Any:
        seen.extend(texts)
        return call(self, texts, **more)

    monkeypatch.setattr(type(tokenizer), "__call__", watched)
    prompt = "We see a fox by the river.\nWhat does it"
    read([Texts([prompt] * 3, [prompt + end for end in (" do?", "", "s fur")])])
    assert seen == [prompt, " it do?", " its fur"]


def broken(change: Any) -> Any:
    tokenizer = WORD_BY_WORD["llama-3"]()
    change(tokenizer)
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        sentencepiece_like,
        lambda: AutoTokenizer.from_pretrained(minilm()),
        lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda: byte_level(GPT_2, normalizers.Lowercase()),
        lambda: byte_level(by_regex(r"(?<=a) b|\w+|\s+")),
        lambda: byte_level(by_regex(r"^ a|\w+|\s+")),
        lambda: byte_level(by_regex(r"\w+(?= the end)|\w+|\s+")),
        lambda: byte_level(by_regex(r"\w+(?! the end)|\w+|\s+")),
        lambda: byte_level(by_regex(r"\w+|\s+", pre_tokenizers.Punctuation())),
        lambda: broken(lambda t: t.add_tokens([AddedToken("fox", rstrip=True)])),
        lambda: broken(lambda t: t.add_tokens([AddedToken("fox", single_word=True)])),
        lambda: broken(lambda t: t.add_tokens(["a fox"])),
        lambda: broken(lambda t: setattr(t.backend_tokenizer.model, "dropout", 0.1)),
        lambda: broken(
            lambda t: setattr(
                t.backend_tokenizer,
                "post_processor",
                processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)]),
            )
        ),
    ],
)
def test_what_is_not_known_to_read_word_by_word_is_read_whole(tokenizer: Any) -> None:
    assert not reads_word_by_word(tokenizer(), True)
