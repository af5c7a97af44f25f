"""Texts -> tokens, each text by itself, but what many begin with only once where that cannot be told from the result.

Most tokenizers of today cut a text into words by one regular expression, from left to right, and turn each word into
tokens without a look at the others (byte-level BPE: GPT-2, Llama 3, Qwen, OLMo ...). Where a word begins inside a
prompt, the words before it are those of the prompt alone, whatever follows, and the words from there on are those of
the rest alone. So a prompt with K responses is read once, and then K times its last word with a response.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

Ids: TypeAlias = tuple[int, ...]

SPACE = "Ġ"
"""How a byte-level token writes the space that it begins with."""

_BETWEEN = re.compile("[A-Za-z] [A-Za-z]")
"""Where a word may be cut off: so that neither a normaliser nor a rule for digits has to do with it."""

_LOOKS_AROUND = re.compile(r"\(\?<|\(\?=|\\[bBAGzZ]|\\[1-9]|(?<!\[)\^")
"""Of a regular expression: what may see more than the text from where it stands, or further than one character."""


class Texts(NamedTuple):
    """The strings of a datum that are tokenised.

    ``prompts`` has one for each response, as generation sees it. ``wholes`` are prompt and response together, or of an
    encoder's text pair the response alone.
    """

    prompts: list[str]
    wholes: list[str]


class _Cut(NamedTuple):
    """A place where a word begins: so many tokens are before it, and it is this character."""

    tokens: int
    character: int


@dataclass(frozen=True)
class Tokens:
    """The tokens of texts, as the tokenizer gives them for each by itself, by few calls of it. Build it with ``of``.

    ``special``: the tokenizer adds its special tokens. ``by_word``: it is known to read word by word.
    """

    tokenizer: Any
    special: bool
    by_word: bool

    @classmethod
    def of(cls, tokenizer: Any, special: bool) -> Tokens:
        return cls(tokenizer, special, reads_word_by_word(tokenizer, special))

    def __call__(self, texts: Sequence[Texts]) -> dict[str, Ids]:
        """The tokens of each distinct text."""
        prompts = dict.fromkeys(text for one in texts for text in one.prompts)
        found, cuts = self._prompts(prompts) if self.by_word and prompts else ({}, {})
        wholes = {whole: prompt for one in texts for prompt, whole in zip(*one, strict=True) if whole not in found}
        tails = {
            whole: whole[cuts[prompt].character :]
            for whole, prompt in wholes.items()
            if prompt in cuts and whole.startswith(prompt)
        }
        ends = self._alone(tails.values(), special=False)
        for whole, tail in tails.items():
            prompt = wholes[whole]
            found[whole] = (*found[prompt][: cuts[prompt].tokens], *ends[tail])
        return found | self._alone((text for text in (*prompts, *wholes) if text not in found), self.special)

    def _prompts(self, texts: Iterable[str]) -> tuple[dict[str, Ids], dict[str, _Cut]]:
        """The tokens of prompts, and where the last word of each begins, where that can be seen."""
        read = _call(self.tokenizer, texts, self.special)
        found = {text: tuple(ids) for text, ids in zip(texts, read["input_ids"], strict=True)}
        places = ((text, _last_word(text, read[n])) for n, text in enumerate(texts))
        return found, {text: cut for text, cut in places if cut is not None}

    def _alone(self, texts: Iterable[str], special: bool) -> dict[str, Ids]:
        distinct = dict.fromkeys(texts)
        read = _call(self.tokenizer, distinct, special)["input_ids"] if distinct else []
        return dict(zip(distinct, map(tuple, read), strict=True))


def _call(tokenizer: Any, texts: Iterable[str], special: bool) -> Any:
    return tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False)


def _last_word(text: str, encoding: Any) -> _Cut | None:
    """Where the last word of a text begins that follows another after one space."""
    words, offsets, tokens = encoding.word_ids, encoding.offsets, encoding.tokens
    for n in range(len(words) - 1, 0, -1):
        if words[n] is not None and words[n] != words[n - 1] and tokens[n].startswith(SPACE):
            # Some tokenizers leave the space out of the place of a token.
            at = offsets[n][0] - (not text.startswith(" ", offsets[n][0]))
            if at > 0 and _BETWEEN.fullmatch(text, at - 1, at + 2):
                return _Cut(n, at)
    return None


def reads_word_by_word(tokenizer: Any, special: bool) -> bool:
    """Whether a tokenizer is known to cut a text into words as is said above.

    It has no normaliser but NFC, which leaves a space between two letters alone; it cuts by one regular expression that
    looks at most one character ahead and never back, and perhaps apart digits; it reads a word always alike; and no
    token that was added to it holds a space between letters or swallows the spaces around it. Special tokens stand
    before a text only.
    """
    if not tokenizer.is_fast:
        return False
    backend = tokenizer.backend_tokenizer
    if not _plain(backend.normalizer, {"NFC"}) or not _by_regex(backend.pre_tokenizer):
        return False
    if type(backend.model).__name__ != "BPE" or backend.model.dropout:
        return False
    for token in backend.get_added_tokens_decoder().values():
        spaced = token.content == " " or re.search("[A-Za-z] | [A-Za-z]", token.content)
        if spaced or token.lstrip or token.rstrip or token.single_word:
            return False
    alone, with_special = (tuple(_call(tokenizer, ["a b"], s)["input_ids"][0]) for s in (False, special))
    return with_special[len(with_special) - len(alone) :] == alone


def _state(part: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(part.__getstate__())
    return found


def _plain(part: Any, known: set[str]) -> bool:
    return part is None or _state(part)["type"] in known


def _by_regex(pre_tokenizer: Any) -> bool:
    if pre_tokenizer is None:
        return False
    *before, last = _flat(_state(pre_tokenizer))
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return False
    splits = [step for step in before if step["type"] == "Split"]
    if any(step["type"] not in ("Split", "Digits") for step in before) or len(splits) + last["use_regex"] != 1:
        return False
    patterns = [step["pattern"].get("Regex") for step in splits]
    return all(
        pattern is not None
        and not _LOOKS_AROUND.search(pattern)
        and step["behavior"] == "Isolated"
        and all(ahead.startswith(r"(?!\S)") for ahead in re.findall(r"\(\?!.{0,3}", pattern))
        for step, pattern in zip(splits, patterns, strict=True)
    )


def _flat(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if state["type"] == "Sequence":
        for inner in state["pretokenizers"]:
            yield from _flat(inner)
    else:
        yield state
