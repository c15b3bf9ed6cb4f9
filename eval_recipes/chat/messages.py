"""Chats, replies, and the size of both."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from eval_recipes.chat.errors import GarbledReply

Message: TypeAlias = Mapping[str, str]
"""One message of a chat: ``role`` and ``content``."""

# Lone surrogates have no UTF-8; a terminal obeys control characters.
_UNCLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Reply:
    """What the judge said, and its tokens (``eval_recipes.chat.messages``)."""

    key: str
    """Hash of the request, by which the reply is cached."""

    text: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def tokens(self) -> int:
        """Tokens of request and reply together."""
        return self.prompt_tokens + self.completion_tokens


def request_key(
    model: str,
    base_url: str,
    messages: Sequence[Message],
    parameters: Mapping[str, Any],
) -> str:
    """Return a hash of everything that determines a reply."""
    request = [model, base_url, [dict(message) for message in messages], parameters]
    text = json.dumps(request, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()


def most_tokens(messages: Sequence[Message]) -> int:
    """
    Return more tokens than a chat should have, whatever the tokenizer.

    A token stands for at least one byte; what a chat template puts around a message is
    taken to be up to 16 tokens.

    >>> most_tokens([{"role": "user", "content": "abc"}])
    19
    """
    return sum(
        len(message["content"].encode("utf-8", "surrogatepass")) + 16
        for message in messages
    )


def most_bytes(max_tokens: int) -> int:
    """
    Return more bytes than a reply of ``max_tokens`` should have as JSON.

    32 a token: few are longer than five characters, which take up to six bytes each when they
    are escaped. 64 KiB for all that is around the text.

    >>> most_bytes(16)
    66048
    """
    return (1 << 16) + 32 * max_tokens


def clean_text(text: str) -> str:
    r"""
    Return a text that every file can hold and every terminal show.

    Control characters other than line break and tab become the replacement character, and so
    do surrogates that stand alone.

    >>> clean_text("sea\ud800 \x1b[2J")
    'sea\ufffd \ufffd[2J'
    """
    return _UNCLEAN.sub("\ufffd", text.replace("\r\n", "\n"))


def estimate_prompt(messages: Sequence[Message]) -> int:
    """Return roughly how many tokens a chat has."""
    return sum(estimate_tokens(message["content"]) for message in messages)


def estimate_tokens(text: str) -> int:
    """
    Return roughly how many tokens a text has, at four characters each (English prose).

    >>> estimate_tokens("abcde")
    2
    """
    return -(-len(text) // 4)


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
