"""Chats, replies and their cache, and the size of both."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from eval_recipes.chat.errors import GarbledReply
from eval_recipes.running.artifacts import KEY_FILE, open_artifacts
from saereg_plugin.errors import InputError
from saereg_plugin.files import read_json, write_json

Message: TypeAlias = Mapping[str, str]
"""One message of a chat: ``role`` and ``content``."""

_UNCLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Lone surrogates, which have no UTF-8, and control characters, which a terminal obeys."""
_MOST_TOKENS = 10**9
_MOST_BYTES = 1 << 24

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """The text of a reply, and the tokens of request and reply."""

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

    A token has at least one byte; a chat template is taken to add up to 16 tokens a message.

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

    32 bytes a token: few are longer than five characters, of up to six bytes each when escaped.
    64 KiB are for everything around the text.

    >>> most_bytes(16)
    66048
    """
    return (1 << 16) + 32 * max_tokens


def clean_text(text: str) -> str:
    r"""
    Return a text that every file can hold and every terminal show.

    Control characters other than line break and tab, and lone surrogates, become the
    replacement character.

    >>> clean_text("sea\ud800 \x1b[2J")
    'sea\ufffd \ufffd[2J'
    """
    return _UNCLEAN.sub("\ufffd", text.replace("\r\n", "\n"))


def estimate_prompt(messages: Sequence[Message]) -> int:
    """Return roughly how many tokens a chat has."""
    return sum(_estimate(message["content"]) for message in messages)


def _estimate(text: str) -> int:
    # four characters a token, as in English prose
    return -(-len(text) // 4)


def read_completion(
    completion: Any,
    key: str,
    messages: Sequence[Message],
    redacted: Callable[[str], str],
) -> Reply:
    """
    Return the reply in a chat completion, JSON of any form.

    Its tokens are the larger of the server's count and an estimate from the characters: a
    budget must hold for a server that counts nothing, or wrongly. ``redacted`` blanks the key
    in a text.

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
    return Reply(key, text, prompt, max(_estimate(text), counted))


def _counted(usage: Any, name: str) -> int:
    """Return a count of the server; 0 if it cannot be a number of tokens."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if _is_count(value) and value < _MOST_TOKENS else 0


class ReplyCache:
    """
    Replies by the hash of their request, ``root/judge/replies/<2 digits>/<hash>.json``.

    A damaged file, or a file without text, counts as absent: the request is sent again. Empty
    replies are kept in memory only.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.folder = root / "judge" / "replies"
        self._marked = False
        self._empty: dict[str, Reply] = {}

    def get(self, key: str) -> Reply | None:
        """Return the reply, or None; a damaged file is logged."""
        if key in self._empty:
            return self._empty[key]
        path = self._path(key)
        if not path.exists():
            return None
        try:
            record = read_json(
                path, remedy="The judge is asked again.", max_bytes=_MOST_BYTES
            )
        except InputError as error:
            logger.warning("%s", error)
            return None
        reply = _reply(key, record)
        if reply is None:
            logger.warning("Reply %r is damaged. The judge is asked again.", str(path))
        return reply if reply is not None and reply.text else None

    def put(self, reply: Reply) -> None:
        """Keep a reply."""
        if not reply.text:
            self._empty[reply.key] = reply
            return
        if not self._marked:
            open_artifacts(self._root)
            # `clean_artifacts` knows the folder by this file
            write_json(self.folder / KEY_FILE, {"holds": "replies of judges"})
            self._marked = True
        record = {
            "text": reply.text,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "sha256": _digest(reply),
        }
        write_json(self._path(reply.key), record)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _reply(key: str, record: Any) -> Reply | None:
    """Return the reply in a file; None if the file is damaged."""
    if not isinstance(record, dict):
        return None
    text: Any = record.get("text")
    prompt: Any = record.get("prompt_tokens")
    said: Any = record.get("completion_tokens")
    if not (isinstance(text, str) and _is_count(prompt) and _is_count(said)):
        return None
    reply = Reply(key, clean_text(text), prompt, said)
    # version 0.1.0 wrote no hash
    known = record.get("sha256")
    return reply if known is None or known == _digest(reply) else None


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _digest(reply: Reply) -> str:
    facts = [reply.key, reply.text, reply.prompt_tokens, reply.completion_tokens]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
