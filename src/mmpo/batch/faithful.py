"""Whether the strings that a model is to read still say what the datum says.

A chat template is a program that came with the tokenizer. It may leave out a turn, or write the prompt in one way
before generation and in another way before an answer, and a run on such strings looks like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mmpo.data import texts
from mmpo.types import Message, Text

ASKING = ("user", "system", "developer")
"""Roles whose words a template must keep. Of an assistant's earlier turns many leave the reasoning out."""


def longest(max_length: int) -> int:
    """Characters of the longest text that is worth to be tokenised, most of which is then cut off."""
    return max(1_000_000, 100 * max_length)


class Fault(NamedTuple):
    """Why a datum cannot be used: the reason in the words of the count, and what to say of this one."""

    reason: str
    message: str


def special_texts(tokenizer: Any) -> tuple[str, ...]:
    """The special tokens as text."""
    return tuple(token for token in tokenizer.all_special_tokens if token.strip())


def unreadable(
    prompts: Sequence[Text], responses: Sequence[Text], special: tuple[str, ...], longest: int
) -> Fault | None:
    """A text that is nothing but special tokens, or so long that tokenising it takes more memory than training."""
    for text in (*prompts, *responses):
        words = texts.words(text)
        if len(words) > longest:
            return Fault(
                "far too long",
                f"{called(text, prompts)} has {len(words):,} characters, and more than {longest:,} are not tokenised "
                "under this max_length; cut the text",
            )
        words = words.strip()
        if words.startswith(special) and not _without(words, special):
            return Fault(
                "nothing but special tokens", f"{called(text, prompts)} is nothing but special tokens; give it words"
            )
    return None


def rewritten(
    prompts: Sequence[Text], responses: Sequence[Text], openings: Sequence[str], wholes: Sequence[str]
) -> Fault | None:
    """What the chat template lost or wrote otherwise, of the prompt of each response and the responses."""
    for prompt, response, opening, whole in zip(prompts, responses, openings, wholes, strict=True):
        asked = [piece for turn in texts.messages(prompt, "user") if turn["role"] in ASKING for piece in _pieces(turn)]
        if not all(_says(opening, piece) for piece in asked):
            return Fault("lost in the chat template", "the chat template leaves words of the prompt out; change it")
        end = _end(opening, asked)
        if opening[:end] != whole[:end]:
            return Fault(
                "prompt rewritten by the chat template",
                f"the chat template writes the prompt otherwise where {_quoted(response)} follows than "
                "where an answer is to be written; change the template",
            )
        said = [piece for turn in texts.messages(response, "assistant") for piece in _pieces(turn)]
        if not all(_says(whole[end:], piece) for piece in said):
            return Fault(
                "lost in the chat template", f"the chat template leaves words of {_quoted(response)} out; change it"
            )
    return None


def called(text: Text, prompts: Sequence[Text]) -> str:
    """What to call a text. Responses are shuffled before they come here, so that a number would mislead."""
    return "the prompt" if any(text is prompt for prompt in prompts) else _quoted(text)


def _quoted(response: Text) -> str:
    words = texts.words(response)
    return f"the response {json.dumps(words[:40])}{'...' * (len(words) > 40)}"


def _without(words: str, special: tuple[str, ...]) -> str:
    for token in special:
        words = words.replace(token, "")
    return words.strip()


def _pieces(turn: Message) -> Iterator[str]:
    """The texts of one message."""
    content: Any = turn.get("content")
    parts = [content] if isinstance(content, str) else content if isinstance(content, Sequence) else []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            yield text.strip()


def _end(opening: str, asked: Sequence[str]) -> int:
    """Where the last words of the prompt end in it; 0 where the template changed the white space inside them."""
    last = asked[-1] if asked else ""
    start = opening.rfind(last)
    return max(0, start + len(last)) if start >= 0 and last else 0


def _says(written: str, piece: str) -> bool:
    """Whether the words stand there, whatever the template made of white space."""
    return piece in written or "".join(piece.split()) in "".join(written.split())
