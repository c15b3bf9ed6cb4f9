"""Size, age and removal of artefacts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import Timeout

from eval_recipes.running.artifacts import (
    INDEX_FILE,
    KEY_FILE,
    KIND,
    LOCK_FILE,
    ArtifactFolder,
    default_artifacts,
    folders_below,
    open_artifacts,
)
from saereg_plugin.checks import stays_inside
from saereg_plugin.errors import InputError
from saereg_plugin.owned_folder import MARK, OwnedFolder

MANY_BYTES = 20 * 1000**3
"""Bytes of artefacts from which a run says how to remove some."""

REPLIES = "judge/replies"
"""Where the paid replies of chat models lie below a folder of artefacts."""

_UNITS = {
    **{unit: 1000**power for power, unit in enumerate(("B", "KB", "MB", "GB", "TB"))},
    **{f"{unit}IB": 1024**power for power, unit in enumerate("KMGT", 1)},
}
_SIZE = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<unit>[A-Z]*)", re.ASCII)
_REPLY = re.compile(r"[0-9a-f]{64}\.json")


@dataclass(frozen=True)
class Entry:
    """
    What one artefact folder takes, or all replies together.

    Attributes:
        eval: name of the evaluation, or of what several of them share; "replies".
        about: model, hook and data, as far as the key says so.
        size: bytes of the files in its index.
        used: time of the last use, in seconds since 1970.
        folder: where it lies; None for replies.
    """

    eval: str
    about: str
    size: int
    used: float
    folder: ArtifactFolder | None


def entries(root: Path) -> list[Entry]:
    """
    Return what lies in a folder of artefacts, the most recently used first.

    Raises:
        InputError: if it is not ours.
    """
    found = [_entry(folder) for folder in folders_below(root)]
    replies = _replies(root)
    if replies is not None:
        found.append(replies)
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def remove_down_to(
    root: Path, size: int, *, replies: bool
) -> tuple[list[Entry], list[Entry]]:
    """
    Remove the least recently used entries until all together take at most ``size`` bytes.

    ``size`` bytes may stay; ``replies`` are removed only if asked for, when it is their turn.

    Returns:
        What stays, and what was removed. Folders that a process is writing to stay.

    Raises:
        InputError: if the folder is not ours.
    """
    kept, removed = entries(root), list[Entry]()
    for entry in reversed(list(kept)):
        if sum(other.size for other in kept) <= size:
            break
        if (entry.folder is not None or replies) and _remove(root, entry):
            kept.remove(entry)
            removed.append(entry)
    return kept, removed


def space_note(root: Path, limit: int = MANY_BYTES) -> str:
    """Return how to free space, if artefacts and replies below ``root`` exceed ``limit`` bytes."""
    if not (root / MARK).is_file():
        return ""
    total = sum(entry.size for entry in entries(root))
    if total <= limit:
        return ""
    return (
        f"{shown_size(total)} are kept between runs in {str(root)!r}; 'saereg-bench artifacts "
        f"--keep {limit // 1000**3}GB --artifacts {root}' removes the least recently used, but no paid replies."
    )


def clean_artifacts(root: Path) -> None:
    """
    Remove all artefacts and replies below ``root``; what is not ours stays.

    Raises:
        InputError: if it is not ours.
    """
    for entry in entries(root):
        _remove(root, entry)
    if (root / MARK).is_file():
        OwnedFolder(root, KIND).abandon_if_empty()


def existing_artifacts(root: Path | None) -> Path:
    """
    Return a folder of artefacts, by default the one in the user's cache; makes none.

    Raises:
        InputError: if a folder that was named does not exist or is not ours.
    """
    if root is not None and not root.is_dir():
        raise InputError(
            f"Folder {str(root)!r} does not exist; expected the --artifacts of an earlier run."
        )
    root = root or default_artifacts()
    # 0.1.0 left no mark in the cache.
    return open_artifacts(root) if root.is_dir() and any(root.iterdir()) else root


def parse_size(text: str) -> int:
    """
    Return a number of bytes, given as a number and a unit.

    Raises:
        InputError: for anything else.

    >>> parse_size("20GB"), parse_size("1.5 GiB"), parse_size("0")
    (20000000000, 1610612736, 0)
    """
    match = _SIZE.fullmatch(text.strip().upper())
    unit = match["unit"] if match is not None else None
    if (
        match is None
        or unit not in {*_UNITS, ""}
        or (not unit and float(match["number"]))
    ):
        raise InputError(
            f"Size {text!r} cannot be read; expected a number and B, kB, MB, GB, TB, KiB, MiB, GiB "
            "or TiB, such as 20GB."
        )
    return int(float(match["number"]) * _UNITS[unit or "B"])


def shown_size(size: int) -> str:
    """
    Return a number of bytes for people.

    >>> shown_size(999), shown_size(2_700_000_000)
    ('999 B', '2.7 GB')
    """
    for unit in ("TB", "GB", "MB", "kB"):
        if size >= _UNITS[unit.upper()]:
            return f"{size / _UNITS[unit.upper()]:.1f} {unit}"
    return f"{size} B"


def shown_age(used: float) -> str:
    """Return how long ago a time was, for people."""
    seconds = max(time.time() - used, 0)
    for name, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name} ago"
    return "just now"


def _entry(folder: ArtifactFolder) -> Entry:
    index = folder.path / INDEX_FILE
    dated = index if index.exists() else folder.path / KEY_FILE
    size = sum(
        path.stat().st_size
        for path in (folder.path / name for name in _listed(folder))
        if path.is_file() and not path.is_symlink()
    )
    return Entry(
        folder.path.parent.name,
        _about(folder.key),
        size,
        dated.stat().st_mtime,
        folder,
    )


def _about(key: Any) -> str:
    """Return what a person knows an artefact by."""
    names = (
        ("model", "model_name"),
        ("hook", "hook_name", "layer"),
        ("dataset_name", "data_set", "text"),
        ("what", "kind"),
    )
    values = [
        next((key[n] for n in group if key.get(n) is not None), None) for group in names
    ]
    return ", ".join(str(value) for value in values if value is not None)


def _listed(folder: ArtifactFolder) -> Iterator[str]:
    """Yield the names in the index that stay inside the folder and pass no link."""
    for name in folder.index():
        parts = PurePosixPath(name).parts
        parents = [folder.path.joinpath(*parts[:n]) for n in range(1, len(parts))]
        if stays_inside(name) and not any(parent.is_symlink() for parent in parents):
            yield name


def _replies(root: Path) -> Entry | None:
    files = list(_reply_files(root))
    if not files:
        return None
    states = [file.stat() for file in files]
    return Entry(
        "replies",
        f"{len(files):,} paid replies of chat models",
        sum(state.st_size for state in states),
        max(state.st_mtime for state in states),
        None,
    )


def _reply_files(root: Path) -> Iterator[Path]:
    """Yield the files that hold a reply: a hash for a name, and the text of one in it."""
    folder = root / REPLIES
    if folder.is_symlink() or folder.parent.is_symlink():
        return
    for path in sorted(folder.glob("[0-9a-f][0-9a-f]/*.json")):
        named = _REPLY.fullmatch(path.name) and path.name[:2] == path.parent.name
        if named and not path.parent.is_symlink() and _has_text(path, "text"):
            yield path


def _reply_mark(root: Path) -> list[Path]:
    path = root / REPLIES / KEY_FILE
    return [path] if _has_text(path, "holds") else []


def _has_text(path: Path, name: str) -> bool:
    """Whether a plain file holds a JSON object with a text of that name."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and isinstance(record.get(name), str)


def _remove(root: Path, entry: Entry) -> bool:
    """Remove our files of an entry; return whether that was possible."""
    folder = entry.folder
    if folder is None:
        _unlink([*_reply_files(root), *_reply_mark(root)], root)
        return True
    try:
        with folder.lock.acquire(timeout=0):
            folder.recover()
            names = [*_listed(folder), INDEX_FILE, KEY_FILE, LOCK_FILE]
            _unlink([folder.path / name for name in names], root)
            return True
    except Timeout:
        return False


def _unlink(files: Iterable[Path], root: Path) -> None:
    """Remove files, and below ``root`` the folders that this leaves empty."""
    for file in files:
        file.unlink(missing_ok=True)
        folder = file.parent
        while folder != root and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent
