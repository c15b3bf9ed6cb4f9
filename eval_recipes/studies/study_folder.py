"""The folder of a study: one process at a time, and one study at one scale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from saereg_plugin.errors import InputError
from saereg_plugin.files import read_yaml, require_writable, write_json

_MARK = "study.json"


@contextmanager
def study_folder(out: Path, study: str, scale: str) -> Iterator[None]:
    """
    Hold a study's folder, made if need be, for as long as the block runs.

    Args:
        out: the folder.
        study: name of the study.
        scale: "small" or "paper".

    Raises:
        InputError: if it is not writable, of another study or scale, or in use by another
            process.
    """
    require_writable(out)
    _require_same_study(out, study, scale)
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


def mark_folder(out: Path, study: str, scale: str) -> None:
    """Write down which study a folder holds, if that does not stand there yet."""
    if not (out / _MARK).is_file():
        write_json(out / _MARK, {"study": study, "scale": scale})


def _require_same_study(out: Path, study: str, scale: str) -> None:
    if not (out / _MARK).is_file():
        return
    found: Any = read_yaml(out / _MARK)
    if found != {"study": study, "scale": scale}:
        raise InputError(
            f"Folder {str(out)!r} holds the study {found.get('study')!r} at scale "
            f"{found.get('scale')!r}, not {study!r} at {scale!r}. Choose another --out."
        )
