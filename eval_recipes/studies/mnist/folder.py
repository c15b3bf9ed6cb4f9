"""The study's folder: one process at a time, and nothing left of a killed one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from saereg_plugin.errors import InputError
from saereg_plugin.files import require_writable


@contextmanager
def only_user(out: Path) -> Iterator[None]:
    """
    Hold the study's folder, made if need be, for as long as the block runs.

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


def remove_leftovers(folder: Path) -> None:
    """
    Delete what a process left in ``folder`` that was killed while it wrote.

    ``files.atomic_path`` writes to ``.<name>.<digits>.tmp``, a file or a folder, and moves
    an older folder to ``.<name>.<digits>.old``. Only the holder of the folder may call this.
    """
    for pattern in (".*.tmp", ".*.old"):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
                continue
            with suppress(FileNotFoundError):
                path.unlink()
