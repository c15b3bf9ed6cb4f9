"""Replies on disk: one file a request, whole or absent."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from eval_recipes.chat.messages import Reply, clean_text
from eval_recipes.running.artifacts import KEY_FILE, open_artifacts
from saereg_plugin.errors import InputError
from saereg_plugin.files import read_json, write_json

logger = logging.getLogger(__name__)

_MOST_BYTES = 1 << 24


class ReplyCache:
    """
    Replies by the hash of their request, ``root/judge/replies/<2 digits>/<hash>.json``.

    A damaged file, or one whose text is empty, counts as absent: the request is sent again.
    An empty reply says nothing, so it is kept in memory only.
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
            # The mark by which `clean_artifacts` knows the folder as ours.
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
    """Return what a file holds; None if it is not what was written."""
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


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _digest(reply: Reply) -> str:
    facts = [reply.key, reply.text, reply.prompt_tokens, reply.completion_tokens]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
