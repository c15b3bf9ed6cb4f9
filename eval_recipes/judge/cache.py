"""Replies on disk: one file a request, whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

from eval_recipes.artifacts import KEY_FILE, open_artifacts
from eval_recipes.judge.messages import Reply
from saereg_plugin.files import write_json


class ReplyCache:
    """
    Replies by the hash of their request, ``root/judge/replies/<2 digits>/<hash>.json``.

    A file that cannot be read, or whose text is empty, counts as absent: the request is sent
    again. An empty reply says nothing, so it is kept in memory only.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.folder = root / "judge" / "replies"
        self._marked = False
        self._empty: dict[str, Reply] = {}

    def get(self, key: str) -> Reply | None:
        """Return the reply, or None."""
        if key in self._empty:
            return self._empty[key]
        try:
            record = json.loads(self._path(key).read_text(encoding="utf-8"))
            text = record["text"]
            tokens = int(record["prompt_tokens"]), int(record["completion_tokens"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Reply(key, text, *tokens) if isinstance(text, str) and text else None

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
        }
        write_json(self._path(reply.key), record)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
