"""What a server answered, read as a reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eval_recipes.judge.messages import Message, Reply, estimate_tokens
from eval_recipes.judge.retry import GarbledReply


def read_completion(
    completion: Any,
    key: str,
    messages: Sequence[Message],
    redacted: Callable[[str], str],
) -> Reply:
    """
    Return the reply in a chat completion; tokens are estimated if the server tells none.

    Args:
        completion: what came back, of whatever form.
        key: hash of the request.
        messages: the chat it answers.
        redacted: blanks the key of the server in a text.

    Raises:
        GarbledReply: if it is no chat completion.
    """
    try:
        text = completion.choices[0].message.content
    except (AttributeError, TypeError, IndexError):
        raise GarbledReply("the reply is no chat completion") from None
    text = redacted("" if text is None else str(text)).strip()
    usage = getattr(completion, "usage", None)
    prompt = getattr(usage, "prompt_tokens", None)
    said = getattr(usage, "completion_tokens", None)
    if not isinstance(prompt, int):
        prompt = sum(estimate_tokens(message["content"]) for message in messages)
    if not isinstance(said, int):
        said = estimate_tokens(text)
    return Reply(key, text, prompt, said)
