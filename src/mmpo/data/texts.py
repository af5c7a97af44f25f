"""Prompts and responses as text: plain strings, or lists of chat messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmpo.types import Message, Text

_ANSWER = re.compile(r"Assistant:|### Response:|\[/INST\]|<\|assistant\|>|<\|im_start\|>assistant\n")
"""Where the answer begins in the common ways of writing a dialogue as one string."""

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
"""A word: letters and digits, with apostrophes and hyphens inside."""


def key(text: Text) -> str:
    """A string that is equal for equal texts."""
    return text if isinstance(text, str) else json.dumps(list(text), sort_keys=True, ensure_ascii=False, default=str)


def is_encodable(text: Text) -> bool:
    """Whether UTF-8, and so a tokenizer, can carry a text: half of a surrogate pair it cannot."""
    try:
        key(text).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def content(message: Message) -> str:
    """The words of one message; parts that are not text count as their JSON."""
    value: Any = message.get("content")
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, Sequence) else [value]
    return "".join(_part(part) for part in parts if part)


def _part(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) else None
    return text if isinstance(text, str) else json.dumps(part, default=str)


def words(text: Text) -> str:
    """The words of a text, without roles."""
    return text if isinstance(text, str) else "\n".join(content(m) for m in text)


def is_blank(text: Text) -> bool:
    """Whether a text says nothing. A message that calls a tool says something."""
    if isinstance(text, str):
        return not text.strip()
    return not any(content(m).strip() or m.get("tool_calls") for m in text)


def normal(text: Text) -> str:
    """The words in lower case with single spaces: to find the same prompt written twice."""
    return " ".join(words(text).lower().split())


def common_prefix(lists: Sequence[Sequence[Message]]) -> int:
    """Number of leading messages that all lists share, such that each goes on with a turn of its own, not a user's."""
    most = min(len(messages) for messages in lists) - 1
    n = 0
    while n < most and all(dict(messages[n]) == dict(lists[0][n]) for messages in lists):
        n += 1
    while n > 0 and any(messages[n]["role"] == "user" for messages in lists):
        n -= 1
    return n


def common_string(a: str, b: str) -> int:
    """Length of the prompt that two full dialogues share.

    Two answers may begin alike, so the common part is cut back to where the answer begins ("Assistant:" and the
    like), else to the last white space.
    """
    n = _alike(a, b)
    marks = [m.end() for m in _ANSWER.finditer(a, 0, n)]
    if marks:
        return marks[-1]
    shared = a[:n]
    if shared[-1:].isspace():
        return len(shared.rstrip())
    words = shared.rsplit(None, 1)
    return len(words[0]) if len(words) == 2 else 0


def _alike(a: str, b: str) -> int:
    """How many characters two strings have in common at their beginning, by halves: dialogues may be megabytes."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def cue(prompt: str) -> int:
    """Where the end of a plain prompt begins that says nothing but whose turn it is: white space, "Assistant:" and the
    like."""
    body = prompt.rstrip()
    ends = [m.start() for m in _ANSWER.finditer(prompt) if m.end() >= len(body)]
    return len(prompt[: ends[0]].rstrip()) if ends else len(body)


def messages(text: Text, role: str) -> Sequence[Message]:
    """Chat messages; a plain string becomes one turn of the given role."""
    return [{"role": role, "content": text}] if isinstance(text, str) else text


def uniform(prompt: Text, responses: Iterable[Text]) -> tuple[Text, tuple[Text, ...]]:
    """Prompt and responses in one form: all plain text, or, where any is a message list, all message lists."""
    responses = tuple(responses)
    if all(isinstance(t, str) for t in (prompt, *responses)):
        return prompt, responses
    return messages(prompt, "user"), tuple(messages(r, "assistant") for r in responses)
