"""Folder of a study: one process, one study and one scale."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from saereg_plugin.errors import InputError
from saereg_plugin.files import read_json, write_json
from saereg_plugin.owned_folder import OwnedFolder, open_owned, require_owned

KIND = "study"
"""Kind of a study's folder in its mark."""

_MARK = "study.json"
_LOCK = ".lock"


@contextmanager
def study_folder(
    out: Path, study: str, scale: str, *, files: Sequence[str] = ()
) -> Iterator[OwnedFolder]:
    """
    Hold the folder of a study at one scale; write nothing in a folder of another.

    Half-written files of killed processes, under names of the folder's list, are removed.

    Args:
        out: new, empty, or this study's.
        study: name of the study.
        scale: "small" or "paper".
        files: names of the report's files, relative to ``out``.

    Raises:
        InputError: if the folder holds the user's files, another study or scale, is not
            writable, or is in use by another process.
    """
    require_study_folder(out, study, scale)
    folder = open_owned(out, KIND)
    folder.claim([_MARK, _LOCK, *files])
    with _only_user(out):
        # another process may have marked the folder since
        _require_same_study(out, study, scale)
        folder.recover()
        yield folder


def require_study_folder(out: Path, study: str, scale: str) -> None:
    """
    Refuse a folder that a study may not write into; write nothing.

    Raises:
        InputError: if it holds the user's files, or another study or scale.
    """
    require_owned(out, KIND)
    _require_same_study(out, study, scale)


def mark_folder(out: Path, study: str, scale: str) -> None:
    """Record which study a folder holds, unless that is recorded already."""
    if not (out / _MARK).is_file():
        write_json(out / _MARK, {"study": study, "scale": scale})


@contextmanager
def _only_user(out: Path) -> Iterator[None]:
    lock = FileLock(out / _LOCK)
    try:
        held = lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"Folder {str(out)!r} is in use by another process of this study. Wait for it, "
            "or choose another --out."
        ) from error
    with held:
        yield


def _require_same_study(out: Path, study: str, scale: str) -> None:
    path = out / _MARK
    if not path.is_file():
        return
    remedy = (
        f"It says which study the folder holds; expected {{study: {study}, scale: {scale}}}. "
        "Delete the file if the folder is this study's, or choose another --out."
    )
    found: Any = read_json(path, remedy=remedy)
    if not isinstance(found, dict):
        raise InputError(f"File {str(path)!r} is damaged. {remedy}")
    if found != {"study": study, "scale": scale}:
        raise InputError(
            f"Folder {str(out)!r} holds the study {found.get('study')!r} at scale "
            f"{found.get('scale')!r}, not {study!r} at {scale!r}. Choose another --out."
        )


logger = logging.getLogger(__name__)


def write_figures(target: Path, key: str, figures: dict[str, Any]) -> None:
    """Write figures with their hash; ``key`` identifies what was measured."""
    write_json(target, {"key": key, "sha256": _hash(figures), "figures": figures})


def read_figures(target: Path, key: str) -> dict[str, Any] | None:
    """Return the figures of ``key``; None if the file is absent, damaged or of another key."""
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
