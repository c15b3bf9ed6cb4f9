"""A chat completion, read as a reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eval_recipes.chat.errors import GarbledReply
from eval_recipes.chat.messages import (
    Message,
    Reply,
    clean_text,
    estimate_prompt,
    estimate_tokens,
)

_MOST_TOKENS = 10**9


def read_completion(
    completion: Any,
    key: str,
    messages: Sequence[Message],
    redacted: Callable[[str], str],
) -> Reply:
    """
    Return the reply in a chat completion.

    Its tokens are what the server counted or our estimate from the characters, whichever is
    larger: a budget must hold for a server that counts nothing, or wrongly.

    Args:
        completion: what came back, of whatever form.
        key: hash of the request.
        messages: the chat it answers.
        redacted: blanks the key of the server in a text.

    Raises:
        GarbledReply: if it is no chat completion.
    """
    usage = completion.get("usage") if isinstance(completion, dict) else None
    prompt = max(estimate_prompt(messages), _counted(usage, "prompt_tokens"))
    counted = _counted(usage, "completion_tokens")
    try:
        said = completion["choices"][0]["message"]["content"]
    except (KeyError, TypeError, IndexError):
        raise GarbledReply(
            "the reply is no chat completion", prompt + counted
        ) from None
    if not isinstance(said, str | None):
        raise GarbledReply(
            "the reply is no chat completion: its content is no text", prompt + counted
        )
    text = redacted(clean_text(said or "")).strip()
    return Reply(key, text, prompt, max(estimate_tokens(text), counted))


def _counted(usage: Any, name: str) -> int:
    """Return what a server says it counted; 0 if that cannot be a number of tokens."""
    value = usage.get(name) if isinstance(usage, dict) else None
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return value if value < _MOST_TOKENS else 0
