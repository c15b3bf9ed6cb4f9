"""The folder of a study: one process at a time, and one study at one scale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from saereg_plugin.errors import InputError
from saereg_plugin.files import require_writable, write_json
from saereg_plugin.yaml_text import read_yaml

_MARK = "study.json"


@contextmanager
def only_user(out: Path) -> Iterator[None]:
    """
    Hold a folder, made if need be, for as long as the block runs.

    Raises:
        InputError: if it is not writable, or in use by another process.
    """
    require_writable(out)
    lock = FileLock(out / ".lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"Folder {str(out)!r} is in use by another process of this study. Wait for it, "
            "or choose another --out."
        ) from error
    with held:
        yield


@contextmanager
def study_folder(out: Path, study: str, scale: str) -> Iterator[None]:
    """
    Hold the folder of a study at one scale; nothing is left in a folder of another.

    Args:
        out: the folder.
        study: name of the study.
        scale: "small" or "paper".

    Raises:
        InputError: see ``only_user``; and if it is of another study or scale.
    """
    _require_same_study(out, study, scale)
    with only_user(out):
        # another process may have marked the folder since
        _require_same_study(out, study, scale)
        yield


def mark_folder(out: Path, study: str, scale: str) -> None:
    """Write down which study a folder holds, if that does not stand there yet."""
    if not (out / _MARK).is_file():
        write_json(out / _MARK, {"study": study, "scale": scale})


def _require_same_study(out: Path, study: str, scale: str) -> None:
    if not (out / _MARK).is_file():
        return
    found: Any = read_yaml(out / _MARK)
    if not isinstance(found, dict):
        raise InputError(
            f"File {str(out / _MARK)!r} does not say which study the folder holds; expected "
            f"{{study: {study}, scale: {scale}}}. Delete it if the folder is this study's, or "
            "choose another --out."
        )
    if found != {"study": study, "scale": scale}:
        raise InputError(
            f"Folder {str(out)!r} holds the study {found.get('study')!r} at scale "
            f"{found.get('scale')!r}, not {study!r} at {scale!r}. Choose another --out."
        )
