"""Output folders with a mark that lists the files we may replace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from saereg_plugin.checks import stays_inside
from saereg_plugin.errors import InputError
from saereg_plugin.files import (
    PROBE,
    files_in,
    is_temporary,
    make_folder,
    read_json,
    recover,
    require_writable,
    sync_folder,
    sync_tree,
    temporary_path,
    write_json,
)

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


@dataclass(frozen=True)
class OwnedFolder:
    """
    A folder with our mark.

    Only files in the mark's list are ever replaced or removed. A name enters the list
    before its file is written: a killed process leaves no file that looks like the user's.

    Attributes:
        path: the folder.
        kind: what it holds, such as "release", as in the mark.
    """

    path: Path
    kind: str

    def files(self) -> frozenset[str]:
        """Return the names in the list, relative to the folder, with "/" between parts."""
        return frozenset(name for name in self._listed() if not _is_folder(name))

    def claim(self, names: Iterable[str]) -> frozenset[str]:
        """
        List files before they are written; refuse all if one is refused.

        Returns:
            the names that were not in the list before.

        Raises:
            InputError: if a file exists that is not in the list, or a folder is a link.
        """
        wanted = set(names)
        with folder_lock(self.path):
            self.require_free(wanted)
            listed = self._listed()
            if not wanted <= listed:
                self._write(listed | wanted)
            return frozenset(wanted - listed)

    def require_free(self, names: Iterable[str]) -> None:
        """Refuse the names that ``claim`` would refuse; the list stays as it is."""
        listed = self._listed()
        for name in sorted(names):
            self.require_plain(name)
            path = self.path / name
            if path.exists() and name not in listed:
                raise InputError(
                    f"{str(path)!r} was not written by this package and would be replaced. Move it "
                    "away, or choose another output folder."
                )

    def remove(self, names: Iterable[str]) -> None:
        """Remove listed files, and folders that are then empty; other files stay."""
        with folder_lock(self.path):
            listed = self._listed()
            gone = set(names) & listed
            for name in gone:
                self.require_plain_parents(name)
                recover(self.path / name)
                (self.path / name).unlink(missing_ok=True)
            for folder in self._sync_parents(gone):
                self._remove_empty(folder)
            self._write(listed - gone)

    def settle(self, names: Iterable[str], *, new: Iterable[str]) -> None:
        """
        Bring the list in line with the files that were written after ``claim``.

        Args:
            names: the claimed names. Names with a file are listed, even if another process
                removed them meanwhile.
            new: the names that ``claim`` returned. Names without a file leave the list, since
                a later file of that name is not ours.
        """
        with folder_lock(self.path):
            written = {name for name in names if (self.path / name).exists()}
            gone = set(new) - written
            self._sync_parents(gone)
            listed = self._listed()
            settled = (listed - gone) | written
            if settled != listed:
                self._write(settled)

    def recover(self) -> None:
        """Remove half-written files and folders of killed processes."""
        for name in sorted(self._listed()):
            self.require_plain_parents(name)
            if _is_folder(name):
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / name)
            else:
                recover(self.path / name)

    @contextmanager
    def write_folder(self, name: str) -> Iterator[Path]:
        """
        Yield a temporary folder; on success move its files into folder ``name``.

        The files are then on the disk and in the list. A new folder appears in one rename; in
        an old folder, listed files are replaced or removed and other files stay.

        Raises:
            InputError: as ``claim``; the files of ``name`` are then as they were.
        """
        target = self.path / name
        temporary = self._new_folder(target)
        try:
            yield temporary
            sync_tree(temporary)
            written = files_in(temporary)
            self.claim(f"{name}/{file}" for file in written)
            if target.exists():
                self._merge(temporary, name, written)
            else:
                temporary.rename(target)
            sync_folder(target.parent)
        finally:
            if temporary.exists():
                shutil.rmtree(temporary)

    def _new_folder(self, target: Path) -> Path:
        """Make a listed temporary folder next to ``target``."""
        folder = temporary_path(target)
        name = folder.relative_to(self.path).as_posix()
        with folder_lock(self.path):
            self.require_plain(name)
            make_folder(target.parent)
            write_mark(self.path, self.kind, self._listed() | {f"{name}/"})
            folder.mkdir()
        return folder

    def _merge(self, source: Path, name: str, written: list[str]) -> None:
        target = self.path / name
        for file in written:
            make_folder((target / file).parent)
            os.replace(source / file, target / file)
        for folder in {(target / file).parent for file in written}:
            sync_folder(folder)
        kept = {f"{name}/{file}" for file in written}
        self.remove(
            listed
            for listed in self.files() - kept
            if PurePosixPath(name) in PurePosixPath(listed).parents
        )

    def abandon(self) -> None:
        """Remove the listed files and the mark, so that the folder is free again."""
        self.remove(self.files())
        with folder_lock(self.path):
            self._remove_mark()

    def abandon_if_empty(self) -> None:
        """Remove the mark of a folder that holds nothing else."""
        with folder_lock(self.path):
            if {path.name for path in self.path.iterdir()} <= {MARK, LOCK}:
                self._remove_mark()

    def require_plain_parents(self, name: str) -> None:
        """Refuse a name in a folder that is a link, see ``require_plain``."""
        parent = PurePosixPath(name).parent
        if parent.name:
            self.require_plain(parent.as_posix())

    def require_plain(self, name: str) -> None:
        """
        Refuse a name that leaves the folder, or has a part that is a link.

        Raises:
            InputError: naming the link.
        """
        if not stays_inside(name):
            raise InputError(
                f"File name {name!r} leaves the folder {str(self.path)!r}; expected one inside. "
                "Choose another name."
            )
        parts = PurePosixPath(name).parts
        for end in range(1, len(parts) + 1):
            part = self.path.joinpath(*parts[:end])
            if part.is_symlink():
                raise InputError(
                    f"{str(part)!r} is a link; expected a plain file or folder there. Remove the "
                    "link, or make the whole output folder a link."
                )

    def _sync_parents(self, names: Iterable[str]) -> list[Path]:
        """Wait until files are gone from the disk, before they leave the list."""
        parents = sorted({(self.path / name).parent for name in names})
        folders = [folder for folder in parents if folder.is_dir()]
        for folder in folders:
            sync_folder(folder)
        return folders

    def _remove_mark(self) -> None:
        (self.path / MARK).unlink()
        (self.path / LOCK).unlink(missing_ok=True)

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.path and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            sync_folder(folder.parent)
            folder = folder.parent

    def _listed(self) -> frozenset[str]:
        """Return the list with temporary folders, whose names end in "/"."""
        return frozenset(read_mark(self.path)["files"])

    def _write(self, names: Iterable[str]) -> None:
        """Write the list without the temporary folders that are gone."""
        kept = {n for n in names if not _is_folder(n) or (self.path / n).is_dir()}
        write_mark(self.path, self.kind, kept)


def open_owned(folder: Path, kind: str) -> OwnedFolder:
    """
    Mark a folder, or open a marked folder.

    Args:
        folder: new, empty, or with our mark of this kind.
        kind: what it will hold, such as "release".

    Raises:
        InputError: as ``require_owned``, or if it cannot be written to.
    """
    require_owned(folder, kind)
    owned = OwnedFolder(folder, kind)
    try:
        make_folder(folder)
        with folder_lock(folder):
            recover(folder / MARK)
            # also where there is one: this shows that the folder can be written to
            owned._write(owned._listed() if (folder / MARK).is_file() else ())
    except OSError as error:
        raise InputError(
            f"Output folder {str(folder)!r} is not writable ({error.strerror}); "
            "expected a folder in which files can be created. Choose another one."
        ) from error
    return owned


def adopt(folder: Path, kind: str) -> OwnedFolder:
    """
    Mark a folder whatever it holds, for example in the cache.

    Files that it holds do not enter the list.

    Raises:
        InputError: if it has the mark of another kind, or cannot be written to.
    """
    if (folder / MARK).is_file():
        return open_owned(folder, kind)
    require_writable(folder)
    write_mark(folder, kind, frozenset())
    return OwnedFolder(folder, kind)


def _is_folder(name: str) -> bool:
    return name.endswith("/")
