"""What a process leaves that was killed while it wrote."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path


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
