"""Mark of an output folder: its kind and its files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from saereg_plugin.checks import stays_inside
from saereg_plugin.errors import InputError
from saereg_plugin.files import PROBE, is_temporary, read_json, write_json

MARK = ".saereg.json"
"""File that makes a folder ours; it lists the files of this package."""
LOCK = ".saereg.lock"
"""File that a process locks while it changes the list."""
_SHOWN = 5


def require_owned(folder: Path, kind: str) -> None:
    """
    Refuse a folder that is not ours to write into; writes nothing.

    Raises:
        InputError: for the current, root or home folder, for files without our mark, or
            for the mark of another kind.
    """
    _require_apart(folder)
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputError(
            f"Output folder {str(folder)!r} is a file; expected a folder. Choose another one."
        )
    if (folder / MARK).is_file():
        found = read_mark(folder)["kind"]
        if found != kind:
            raise InputError(
                f"Folder {str(folder)!r} holds {found!r}; expected a new folder, an empty one, or "
                f"one that holds {kind!r}. Choose another output folder."
            )
        return
    others = sorted(path.name for path in folder.iterdir() if not _is_ours(path.name))
    if others:
        shown = ", ".join(repr(name) for name in others[:_SHOWN])
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        raise InputError(
            f"Folder {str(folder)!r} holds files that this package did not write: {shown}{more}. "
            "Choose a new or an empty folder."
        )


def kind_of(folder: Path) -> str | None:
    """Return the kind in a folder's mark, or None without a mark."""
    return read_mark(folder)["kind"] if (folder / MARK).is_file() else None


def _is_ours(name: str) -> bool:
    """Return whether a file may come from another process that marks the folder now."""
    made = any(is_temporary(name, of=target) for target in (MARK, PROBE))
    return made or name in (MARK, LOCK)


def _require_apart(folder: Path) -> None:
    """Refuse folders that an unset variable or a slip would name."""
    if os.path.expanduser(folder) != str(folder):
        raise InputError(
            f"Output folder {str(folder)!r} begins with '~', which the shell did not replace; "
            "expected a path. Write $HOME, or leave out the quotes."
        )
    resolved = folder.resolve()
    for place, name in (
        (Path.cwd(), "current folder"),
        (Path(resolved.anchor), "root folder"),
        (Path(os.path.expanduser("~")), "home folder"),
    ):
        if resolved == place.resolve():
            raise InputError(
                f"Output folder {str(folder)!r} is the {name}; expected a folder of its own, such "
                "as 'my-output'."
            )


def read_mark(folder: Path) -> dict[str, Any]:
    path = folder / MARK
    remedy = "It lists the files this package wrote. Choose another output folder."
    found = read_json(path, remedy=remedy)
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("kind"), str)
        or not isinstance(found.get("files"), list)
        or not all(isinstance(n, str) and stays_inside(n) for n in found["files"])
    ):
        raise InputError(f"File {str(path)!r} is damaged. {remedy}")
    return found


def write_mark(folder: Path, kind: str, names: Iterable[str]) -> None:
    write_json(
        folder / MARK,
        {"written_by": "saereg-plugin", "kind": kind, "files": sorted(names)},
    )


def folder_lock(folder: Path) -> FileLock:
    """Return the lock of a marked folder, for files that several processes write."""
    return FileLock(folder / LOCK)
