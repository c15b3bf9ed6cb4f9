"""Measured figures in a file that says what they were measured on."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from saereg_plugin.errors import InputError
from saereg_plugin.files import read_json, write_json

logger = logging.getLogger(__name__)


def write_figures(target: Path, key: str, figures: dict[str, Any]) -> None:
    """Write figures with their hash; ``key`` changes when what was measured does."""
    write_json(target, {"key": key, "sha256": _hash(figures), "figures": figures})


def read_figures(target: Path, key: str) -> dict[str, Any] | None:
    """Return the figures of ``key``; None if there are none, or if the file is damaged."""
    if not target.exists():
        return None
    try:
        kept: Any = read_json(target, remedy="It is measured again.")
    except InputError as error:
        logger.warning("%s", error)
        return None
    figures = kept.get("figures") if isinstance(kept, dict) else None
    if not isinstance(figures, dict) or kept.get("sha256") != _hash(figures):
        logger.warning(
            "File %r is damaged: it has another hash. It is measured again.",
            str(target),
        )
        return None
    return figures if kept.get("key") == key else None


def _hash(figures: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()
