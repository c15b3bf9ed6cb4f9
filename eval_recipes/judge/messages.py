"""What is sent to a judge and what comes back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Message: TypeAlias = Mapping[str, str]
"""One message of a chat: ``role`` and ``content``."""


@dataclass(frozen=True)
class Reply:
    """What the judge said; tokens as the server counted them, else estimated."""

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
    return sum(len(message["content"].encode()) + 16 for message in messages)


def estimate_tokens(text: str) -> int:
    """
    Return roughly how many tokens a text has, at four characters each (English prose).

    >>> estimate_tokens("abcde")
    2
    """
    return -(-len(text) // 4)
