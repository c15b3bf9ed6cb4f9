"""Folders that this package writes into, with a list of its files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from saereg_plugin.errors import InputError
from saereg_plugin.files import (
    PROBE,
    read_json,
    recover,
    require_writable,
    sync_folder,
    temporaries,
    write_json,
)

MARK = ".saereg.json"
"""File that makes a folder ours; it lists the files that this package wrote there."""
_LOCK = ".saereg.lock"
_SHOWN = 5


@dataclass(frozen=True)
class OwnedFolder:
    """
    A folder with our mark.

    Only files in the mark's list are ever replaced or removed. A name enters the list
    before its file is written, so that a process killed in between leaves no file that is
    taken for the user's.

    Attributes:
        path: the folder.
        kind: what it holds, such as "release"; the mark says the same.
    """

    path: Path
    kind: str

    def files(self) -> frozenset[str]:
        """Return the names in the list, relative to the folder, with "/" between parts."""
        return frozenset(_read_mark(self.path)["files"])

    def claim(self, names: Iterable[str]) -> None:
        """
        Add files to the list before they are written; nothing is written if one is refused.

        Raises:
            InputError: if a file of that name exists that is not in the list, or one of its
                folders is a link.
        """
        wanted = set(names)
        with self._locked():
            listed = self.files()
            for name in sorted(wanted):
                self._require_own_name(name, listed)
            if not wanted <= listed:
                _write_mark(self.path, self.kind, listed | wanted)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files of the list, and the folders that this leaves empty; others stay."""
        with self._locked():
            listed = self.files()
            gone = set(names) & listed
            for name in sorted(gone):
                path = self.path / name
                recover(path)
                path.unlink(missing_ok=True)
                self._remove_empty(path.parent)
            _write_mark(self.path, self.kind, listed - gone)

    def recover(self) -> None:
        """Remove the half-written files that killed processes left under listed names."""
        for name in sorted(self.files()):
            recover(self.path / name)

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.path and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            sync_folder(folder.parent)
            folder = folder.parent

    def _require_own_name(self, name: str, listed: frozenset[str]) -> None:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or PurePosixPath(name).is_absolute():
            raise InputError(
                f"File name {name!r} leaves the folder {str(self.path)!r}."
            )
        for end in range(1, len(parts) + 1):
            part = self.path.joinpath(*parts[:end])
            if part.is_symlink():
                raise InputError(
                    f"{str(part)!r} is a link; expected a plain file or folder there. Remove the "
                    "link, or make the whole output folder a link."
                )
        path = self.path / name
        if path.exists() and name not in listed:
            raise InputError(
                f"{str(path)!r} was not written by this package and would be replaced. Move it "
                "away, or choose another output folder."
            )

    def _locked(self) -> FileLock:
        return FileLock(self.path / _LOCK)


def open_owned(folder: Path, kind: str) -> OwnedFolder:
    """
    Make a folder ours, or open one that is.

    Args:
        folder: new, empty, or with our mark of this kind.
        kind: what it will hold, such as "release".

    Raises:
        InputError: as ``require_owned``, or if it cannot be written to.
    """
    require_owned(folder, kind)
    require_writable(folder)
    if not (folder / MARK).is_file():
        _write_mark(folder, kind, frozenset())
    return OwnedFolder(folder, kind)


def require_owned(folder: Path, kind: str) -> None:
    """
    Refuse a folder that is not ours to write into; writes nothing.

    Raises:
        InputError: for the current, root or home folder, and for a folder that holds files
            without our mark, or the mark of another kind; names what is there.
    """
    _require_apart(folder)
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputError(
            f"Output folder {str(folder)!r} is a file; expected a folder. Choose another one."
        )
    if (folder / MARK).is_file():
        found = _read_mark(folder)["kind"]
        if found != kind:
            raise InputError(
                f"Folder {str(folder)!r} holds {found!r}; expected a new folder, an empty one, or "
                f"one that holds {kind!r}. Choose another output folder."
            )
        return
    left = [*temporaries(folder / MARK), *temporaries(folder / PROBE)]
    own = {*left, folder / _LOCK}
    others = sorted(path.name for path in folder.iterdir() if path not in own)
    if others:
        shown = ", ".join(repr(name) for name in others[:_SHOWN])
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        raise InputError(
            f"Folder {str(folder)!r} holds files that this package did not write: {shown}{more}. "
            "Choose a new or an empty output folder."
        )


def _require_apart(folder: Path) -> None:
    """Refuse the folders that an unset variable or a slip would name."""
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


def _read_mark(folder: Path) -> dict[str, Any]:
    path = folder / MARK
    remedy = "It lists the files this package wrote. Choose another output folder."
    found = read_json(path, remedy=remedy)
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("kind"), str)
        or not isinstance(found.get("files"), list)
        or not all(isinstance(name, str) for name in found["files"])
    ):
        raise InputError(f"File {str(path)!r} is damaged. {remedy}")
    return found


def _write_mark(folder: Path, kind: str, names: Iterable[str]) -> None:
    write_json(
        folder / MARK,
        {"written_by": "saereg-plugin", "kind": kind, "files": sorted(names)},
    )
