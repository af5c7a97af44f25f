"""Text -> the exact string that a model reads.

A tokenizer with a chat template renders everything through it: plain strings become one user turn and one assistant
turn. Without a template plain strings are joined as they stand, and messages become lines "Role: content".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpo.types import Text


def messages(text: Text, role: str) -> list[Mapping[str, Any]]:
    """Chat messages; a plain string becomes one turn of the given role."""
    return [{"role": role, "content": text}] if isinstance(text, str) else list(text)


def render(prompt: Text, response: Text, tokenizer: Any) -> tuple[str, str]:
    """The prompt as generation sees it, and the whole of prompt and response."""
    if tokenizer.chat_template:
        turns = messages(prompt, "user")
        opening = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(turns + messages(response, "assistant"), tokenize=False)
        return opening, whole
    opening = opening_text(prompt)
    if not isinstance(prompt, str):
        opening += "\nAssistant: "
    return opening, opening + response_text(response)


def opening_text(prompt: Text) -> str:
    """The prompt as a readable string, without any template."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{str(turn['role']).capitalize()}: {turn['content']}" for turn in prompt)


def response_text(response: Text) -> str:
    """The response as a plain string: its content, without roles."""
    return response if isinstance(response, str) else "\n".join(str(turn["content"]) for turn in response)
