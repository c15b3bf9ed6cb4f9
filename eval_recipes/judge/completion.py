"""A chat completion, read as a reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eval_recipes.judge.errors import GarbledReply
from eval_recipes.judge.messages import Message, Reply, clean_text, estimate_tokens

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
    try:
        said = completion["choices"][0]["message"]["content"]
    except (KeyError, TypeError, IndexError):
        raise GarbledReply("the reply is no chat completion") from None
    if not isinstance(said, str | None):
        raise GarbledReply("the reply is no chat completion: its content is no text")
    text = redacted(clean_text(said or "")).strip()
    usage = completion.get("usage")
    prompt = sum(estimate_tokens(message["content"]) for message in messages)
    return Reply(
        key,
        text,
        max(prompt, _counted(usage, "prompt_tokens")),
        max(estimate_tokens(text), _counted(usage, "completion_tokens")),
    )


def _counted(usage: Any, name: str) -> int:
    """Return what a server says it counted; 0 if that cannot be a number of tokens."""
    value = usage.get(name) if isinstance(usage, dict) else None
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return value if value < _MOST_TOKENS else 0
