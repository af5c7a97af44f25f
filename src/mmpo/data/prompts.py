"""Telling the prompt from the responses, where a row holds whole dialogues."""

from __future__ import annotations

from collections.abc import Sequence

from mmpo.data import texts
from mmpo.data.rows import BadRow, Row
from mmpo.types import Message, Text


def split_prompt(row: Row, responses: tuple[Text, ...]) -> tuple[Text, tuple[Text, ...]]:
    """The prompt, stated in ``prompt`` or shared by all responses, and the responses without it, in one form."""
    if not row.has("prompt"):
        return _shared(responses)
    prompt = row.prompt()
    if isinstance(prompt, str) and all(isinstance(r, str) and r.startswith(prompt) for r in responses):
        row.note("all responses begin with the text of the prompt; it was left there")
    return texts.uniform(*without_turns(prompt, responses))


def _shared(responses: tuple[Text, ...]) -> tuple[Text, tuple[Text, ...]]:
    """The implicit prompt: what the responses have in common at their beginning."""
    if len(responses) < 2:
        raise BadRow("no prompt", "prompt is missing, and one response shares nothing; give the prompt")
    lists, strings = _lists(responses), [r for r in responses if isinstance(r, str)]
    if len(lists) == len(responses):
        n = texts.common_prefix(lists)
        prompt: Text = lists[0][:n]
        rest: tuple[Text, ...] = tuple(messages[n:] for messages in lists)
    elif len(strings) == len(responses):
        n = min(texts.common_string(strings[0], other) for other in strings[1:])
        prompt, rest = strings[0][:n], tuple(s[n:] for s in strings)
    else:
        raise BadRow("wrong type", "one response is text and another is messages; write both the same way")
    if texts.is_blank(prompt):
        raise BadRow("no prompt", "there is no prompt and the responses share no beginning; give the prompt")
    if any(texts.is_blank(r) for r in rest):
        raise BadRow("empty response", "a response is empty after the shared prompt; give the response")
    return prompt, rest


def without_turns(prompt: Text, responses: tuple[Text, ...]) -> tuple[Text, tuple[Text, ...]]:
    """Strip the turns of the prompt from responses that repeat them; the turns then are the prompt."""
    lists = _lists(responses)
    if len(lists) < len(responses) or not any(messages[0]["role"] in ("system", "user") for messages in lists):
        return prompt, responses
    n = texts.common_prefix(lists)
    turns = lists[0][:n]
    if not _holds(turns, prompt):
        raise BadRow("prompt differs", "the responses begin with turns that are not the prompt; make them agree")
    return turns, tuple(messages[n:] for messages in lists)


def _holds(turns: Sequence[Message], prompt: Text) -> bool:
    """Whether the turns say the prompt: one of them, or, for a prompt of several turns, a run of them."""
    if isinstance(prompt, str):
        return any(texts.content(m).strip() == prompt.strip() for m in turns)
    wanted = [(m["role"], texts.content(m).strip()) for m in prompt]
    said = [(m["role"], texts.content(m).strip()) for m in turns]
    return any(said[i : i + len(wanted)] == wanted for i in range(len(said)))


def _lists(responses: Sequence[Text]) -> list[Sequence[Message]]:
    return [r for r in responses if not isinstance(r, str)]
