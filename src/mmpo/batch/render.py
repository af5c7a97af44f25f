"""Text -> the exact string that a model reads.

A tokenizer with a chat template renders everything through it: plain strings become one user turn and one assistant
turn. Without a template plain strings are joined as they stand, and messages become lines "Role: content".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from mmpo.data.texts import content, messages
from mmpo.errors import first_line
from mmpo.types import Text


def render_all(
    data: Sequence[tuple[Sequence[Text], Sequence[Text]]], tokenizer: Any
) -> list[tuple[list[str], list[str]]]:
    """For each datum, the prompt of each response and the responses: the prompts as generation sees them, and the
    wholes of prompt and response."""
    distinct = {id(prompt): prompt for prompts, _ in data for prompt in prompts}
    opening = dict(zip(distinct, render_prompts(list(distinct.values()), tokenizer), strict=True))
    openings = [[opening[id(prompt)] for prompt in prompts] for prompts, _ in data]
    if not tokenizer.chat_template:
        return [
            (before, [text + response_text(one) for text, one in zip(before, responses, strict=True)])
            for before, (_, responses) in zip(openings, data, strict=True)
        ]
    turns = [
        [*messages(prompt, "user"), *messages(response, "assistant")]
        for prompts, responses in data
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    wholes = iter(_templated(turns, tokenizer))
    return [(before, [next(wholes) for _ in before]) for before in openings]


def render_prompts(prompts: Sequence[Text], tokenizer: Any) -> list[str]:
    """The prompts as generation sees them. Raises jinja2.TemplateError where the chat template fails."""
    if tokenizer.chat_template:
        return _templated([list(messages(prompt, "user")) for prompt in prompts], tokenizer, add_generation_prompt=True)
    return [opening_text(prompt) + ("" if isinstance(prompt, str) else "\nAssistant: ") for prompt in prompts]


def render_prompt(prompt: Text, tokenizer: Any) -> str:
    """The prompt as generation sees it."""
    return render_prompts([prompt], tokenizer)[0]


def _templated(conversations: list[list[Any]], tokenizer: Any, **options: Any) -> list[str]:
    """Each conversation through the chat template, by one call."""
    if not conversations:
        return []
    try:
        found: list[str] = tokenizer.apply_chat_template(conversations, tokenize=False, **options)
    except Exception as error:  # a template is a program of its own, and fails in its own ways
        raise TemplateError(first_line(error)) from error
    return found


def opening_text(prompt: Text) -> str:
    """The prompt as a readable string, without any template."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{str(turn['role']).capitalize()}: {content(turn)}" for turn in prompt)


def response_text(response: Text) -> str:
    """The response as a plain string: its content, without roles."""
    return response if isinstance(response, str) else "\n".join(map(content, response))
