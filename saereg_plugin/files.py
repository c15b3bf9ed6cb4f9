"""Atomic files and folders, whole or absent even after a power cut."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError

from saereg_plugin.errors import InputError, WriteError


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as lower-case hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def files_in(folder: Path) -> list[str]:
    """Return the paths of all files below a folder, relative to it, with "/" between parts."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths]


def folder_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all files below a folder, by their ``files_in`` paths."""
    return {name: sha256(folder / name) for name in files_in(folder)}


def sha256_once(path: Path) -> str:
    """
    Return the SHA-256 of a file, hashed again only after its size, times or inode change.

    Raises OSError if it is missing or no regular file.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise OSError(f"{str(path)!r} is no regular file")
    return _sha256_of(
        path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
    )


@lru_cache(maxsize=4096)
def _sha256_of(path: Path, *_identity: int) -> str:
    return sha256(path)


_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(tmp|old)", re.DOTALL)


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """
    Yield a temporary path next to ``target``; rename it to ``target`` on success.

    The block creates a file or a folder at the temporary path. If it raises, the temporary
    path is removed and ``target`` stays as it was. Content reaches the disk before the
    rename, and the rename before this returns: a power cut leaves the old or the new target
    whole. An old target folder is moved aside first and removed last; ``recover`` brings it
    back after a cut between the two.
    """
    make_folder(target.parent)
    temporary = temporary_path(target)
    try:
        yield temporary
        sync_tree(temporary)
        if target.is_dir() and not target.is_symlink():
            aside = temporary_path(target, "old")
            target.rename(aside)
            temporary.rename(target)
            sync_folder(target.parent)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, target)
            sync_folder(target.parent)
    except OSError as error:
        # a failed write does not say of which file
        if error.errno is not None and error.filename is None:
            error.filename = str(target)
        raise
    finally:
        _delete(temporary)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, and wait until their names are on the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_folder(path.parent)


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder next to ``target`` and remove it; so does ``recover(target)``."""
    folder = temporary_path(target)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, if the system can do that."""
    if hasattr(os, "O_DIRECTORY"):
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_tree(path: Path) -> None:
    """Wait until a file, or a folder with its content, is on the disk."""
    if path.is_symlink():
        return
    if path.is_file():
        sync_file(path)
        return
    for root, _, names in os.walk(path):
        for name in names:
            if not (Path(root) / name).is_symlink():
                sync_file(Path(root) / name)
        sync_folder(Path(root))


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def recover(target: Path) -> None:
    """
    Clean up after a process that was killed inside ``atomic_path(target)``.

    A folder that was moved aside comes back if nothing replaced it; other temporary files
    and folders of ``target`` are removed.
    """
    if not target.parent.is_dir():
        return
    for path in sorted(target.parent.iterdir()):
        if not is_temporary(path.name, of=target.name):
            continue
        if path.suffix == ".old" and not target.exists():
            path.rename(target)
            sync_folder(target.parent)
        else:
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def temporary_path(target: Path, ending: str = "tmp") -> Path:
    """Return a new path next to ``target``, see ``is_temporary``."""
    return target.with_name(f".{target.name}.{uuid4().hex[:8]}.{ending}")


def is_temporary(name: str, *, of: str) -> bool:
    """Return whether a name is that of a temporary path for a target named ``of``."""
    match = _TEMPORARY.fullmatch(name)
    return match is not None and match["name"] == of


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write strict JSON atomically; NaN and infinity raise ``ValueError``."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")


_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_WORDS = {
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
    "I/O error": errno.EIO,
    "PytorchStreamWriter": errno.ENOSPC,
    "iostream error": errno.ENOSPC,
    "unexpected pos": errno.ENOSPC,
}
"""Words of errors that safetensors and torch raise, and the system's number for each."""


def disk_errno(error: BaseException) -> int | None:
    """Return the system's error number if a full or broken disk caused an error, or None."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _NOT_WRITTEN else None
    if not isinstance(error, RuntimeError | SafetensorError):
        return None
    return next((_WORDS[words] for words in _WORDS if words in str(error)), None)


@contextmanager
def writing_into(folder: Path, *, remedy: str) -> Iterator[None]:
    """Turn errors of a full or broken disk into ``WriteError``; ``remedy`` is a sentence."""
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        number = disk_errno(error)
        if number is None:
            raise
        named = getattr(error, "filename", None)
        place = repr(str(named)) if named else f"A file in {str(folder)!r}"
        raise WriteError(
            f"{place} cannot be written ({os.strerror(number)}). {remedy}"
        ) from error


_MAX_BYTES = 1 << 28


def read_regular(path: Path, *, remedy: str, max_bytes: int = _MAX_BYTES) -> bytes:
    """
    Return the content of a regular file of at most ``max_bytes``.

    Raises:
        InputError: if it is missing, too large, or no regular file, such as a pipe; the
            message ends with ``remedy``, a sentence.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise InputError(f"{str(path)!r} is no regular file. {remedy}")
        if state.st_size > max_bytes:
            raise InputError(
                f"File {str(path)!r} has {state.st_size:,} bytes; expected at most "
                f"{max_bytes:,}. {remedy}"
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"File {str(path)!r} cannot be read ({error.strerror}). {remedy}"
        ) from error


def read_json(path: Path, *, remedy: str, max_bytes: int = _MAX_BYTES) -> Any:
    """
    Read strict JSON from a regular file.

    Raises:
        InputError: if it cannot be read, is damaged, or holds NaN or an infinity; the
            message ends with ``remedy``, a sentence.
    """
    content = read_regular(path, remedy=remedy, max_bytes=max_bytes)
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"File {str(path)!r} is damaged: it is no JSON ({error}). {remedy}"
        ) from error


def _refuse_constant(token: str) -> None:
    raise ValueError(f"{token} is not JSON")


def folder_identity(folder: Path) -> list[Any]:
    """Return names, sizes and times of a folder's files as plain JSON."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    states = [(str(file), file.stat()) for file in files]
    return [
        str(folder.resolve()),
        [[name, state.st_size, state.st_mtime_ns] for name, state in states],
    ]


PROBE = "write-test"
"""File that is made and removed to prove that a folder can be written to."""


def require_writable(
    folder: Path, *, what: str = "Output folder", remedy: str = "Choose another one."
) -> Path:
    """
    Create a folder and prove that files can be written in it.

    Args:
        folder: the folder.
        what: begins the message.
        remedy: a sentence that ends the message.

    Raises:
        InputError: if the folder cannot be created or written to.
    """
    probe = temporary_path(folder / PROBE)
    try:
        make_folder(folder)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{what} {str(folder)!r} is not writable ({error.strerror}); "
            f"expected a folder in which files can be created. {remedy}"
        ) from error
    return folder
