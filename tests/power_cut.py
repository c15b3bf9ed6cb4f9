"""Recorder of what a run does to a folder, and the states that a power cut may leave."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = 0
KINDS = ("old", "new", "cut", "zeros")
Place = tuple[int, str]
"""A folder's number and a name in it."""


@dataclass(frozen=True)
class Change:
    """
    Names that one call changed, together: of each place the number that it got, or None.

    A rename within a folder changes two names at once; either both reach the disk or none.
    """

    names: dict[Place, int | None]


@dataclass
class Cut:
    """All that decides what a power cut at one moment may leave."""

    durable: dict[Place, int]
    pending: list[Change]
    folders: set[int]
    durable_content: dict[int, bytes]
    content: dict[int, bytes]
    done: int


@dataclass(frozen=True)
class State:
    """
    Files (by path, with content) and folders (None) that a power cut left.

    Attributes:
        done: what ``Recording.done`` was at that moment.
    """

    tree: dict[str, bytes | None]
    done: int

    @property
    def digest(self) -> str:
        """Equal states have equal digests."""
        digest = hashlib.sha256(f"{self.done}\0".encode())
        for path, content in sorted(self.tree.items()):
            whole = b"folder" if content is None else _digest(content)
            digest.update(path.encode() + b"\0" + whole)
        return digest.hexdigest()

    def write(self, folder: Path) -> Path:
        """Make the state in a new folder."""
        folder.mkdir(parents=True)
        for path, content in sorted(self.tree.items()):
            if content is None:
                (folder / path).mkdir()
            else:
                (folder / path).write_bytes(content)
        return folder


@dataclass
class Recording:
    """
    What reached the disk of a folder for certain, and what may have, after each call.

    The rules are POSIX': content is on the disk after ``fsync`` of the file, and a name
    after ``fsync`` of its folder. Anything later may be there or not, in any combination;
    content that was not synced may be old, new, cut, empty or zeros.

    Attributes:
        done: set by the test to say how much must survive from now on.
    """

    folder: Path
    done: int = 0
    cuts: list[Cut] = field(default_factory=list)
    _durable: dict[Place, int] = field(default_factory=dict)
    _pending: list[Change] = field(default_factory=list)
    _durable_content: dict[int, bytes] = field(default_factory=dict)
    _names: dict[Place, int] = field(default_factory=dict)
    _content: dict[int, bytes] = field(default_factory=dict)
    _stamps: dict[int, tuple[int, int]] = field(default_factory=dict)
    _numbers: dict[int, int] = field(default_factory=dict)
    _folders: set[int] = field(default_factory=lambda: {ROOT})
    _next: int = 1

    def begin(self) -> None:
        """Take what is in the folder now for durable."""
        self._look()
        self._durable = dict(self._names)
        self._durable_content = dict(self._content)
        self._pending.clear()
        self.cut()

    def cut(self) -> None:
        """Note what a power cut at this moment may leave."""
        self.cuts.append(
            Cut(
                dict(self._durable),
                list(self._pending),
                set(self._folders),
                dict(self._durable_content),
                dict(self._content),
                self.done,
            )
        )

    def around(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call that may change names; the changes are one."""
        self._note_each()
        try:
            return call(*args, **kwargs)
        finally:
            changed = self._look()
            if changed:
                self._pending.append(Change(changed))
                self.cut()

    def sync(self, call: Callable[[int], Any], descriptor: int) -> Any:
        """Make a call of ``fsync``; content or names of what it is given are durable then."""
        self._note_each()
        self.cut()
        result = call(descriptor)
        number = self._numbers.get(os.fstat(descriptor).st_ino)
        if number in self._content:
            self._durable_content[number] = self._content[number]
        elif number in self._folders:
            self._sync_names(number)
        self.cut()
        return result

    def _sync_names(self, folder: int) -> None:
        left: list[Change] = []
        for change in self._pending:
            for place, number in change.names.items():
                if place[0] == folder:
                    _set(self._durable, place, number)
            others = {p: n for p, n in change.names.items() if p[0] != folder}
            if others:
                left.append(Change(others))
        self._pending = left

    def _note_each(self) -> None:
        """Note what happened without a call that is watched: each name by itself."""
        for place, number in self._look().items():
            self._pending.append(Change({place: number}))

    def _look(self) -> dict[Place, int | None]:
        """Read the folder; return the names that changed since the last time."""
        names: dict[Place, int] = {}
        alive: set[int] = set()
        self._numbers[self.folder.stat().st_ino] = ROOT
        self._walk(self.folder, ROOT, names, alive)
        changed: dict[Place, int | None] = {
            place: number
            for place, number in names.items()
            if self._names.get(place) != number
        }
        changed |= {place: None for place in self._names if place not in names}
        self._names = names
        self._numbers = {
            inode: number
            for inode, number in self._numbers.items()
            if number in alive or number == ROOT
        }
        return changed

    def _walk(
        self, folder: Path, parent: int, names: dict[Place, int], alive: set[int]
    ) -> None:
        for entry in os.scandir(folder):
            state = entry.stat(follow_symlinks=False)
            number = self._numbers.get(state.st_ino)
            if number is None:
                number = self._numbers[state.st_ino] = self._next
                self._next += 1
            names[parent, entry.name] = number
            alive.add(number)
            if entry.is_dir(follow_symlinks=False):
                self._folders.add(number)
                self._walk(Path(entry.path), number, names, alive)
                continue
            stamp = state.st_mtime_ns, state.st_size
            if self._stamps.get(number) != stamp:
                self._stamps[number] = stamp
                self._content[number] = Path(entry.path).read_bytes()

    def states(self, *, seed: int, samples: int) -> Iterator[State]:
        """
        Yield every different state once: the extremes of each moment and some at random.

        Args:
            seed: of the choice.
            samples: random states of each moment.
        """
        seen: set[str] = set()
        chance = random.Random(seed)
        for cut in self.cuts:
            for state in _states_of(cut, chance, samples):
                if state.digest not in seen:
                    seen.add(state.digest)
                    yield state


def _states_of(cut: Cut, chance: random.Random, samples: int) -> Iterator[State]:
    for applied in ([], cut.pending):
        for kind in KINDS:
            yield _state(cut, applied, lambda kind=kind: kind)
    # ordered systems lose a tail only
    for length in range(1, len(cut.pending)):
        yield _state(cut, cut.pending[:length], lambda: "old")
    for _ in range(samples):
        applied = [change for change in cut.pending if chance.random() < 0.5]
        yield _state(cut, applied, lambda: chance.choice(KINDS))


@cache
def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _content(kind: str, old: bytes, new: bytes) -> bytes:
    """Return what a file holds that was ``old`` when it was synced and has become ``new``."""
    if kind in ("old", "new"):
        return old if kind == "old" else new
    kept = _common(old, new)
    if kind == "cut":
        return new[: kept + (len(new) - kept) // 2]
    # the new length, before the blocks were written
    return new[:kept] + bytes(len(new) - kept)


def _common(old: bytes, new: bytes) -> int:
    if new.startswith(old):
        return len(old)
    return len(new) if old.startswith(new) else 0


def _state(cut: Cut, applied: list[Change], kind: Callable[[], str]) -> State:
    names = dict(cut.durable)
    for change in applied:
        for place, number in change.names.items():
            _set(names, place, number)
    tree: dict[str, bytes | None] = {}

    def fill(folder: int, path: str) -> None:
        for (parent, name), number in sorted(names.items()):
            if parent != folder:
                continue
            if number in cut.folders:
                tree[f"{path}{name}"] = None
                fill(number, f"{path}{name}/")
            else:
                old = cut.durable_content.get(number, b"")
                new = cut.content.get(number, b"")
                tree[f"{path}{name}"] = (
                    old if old == new else _content(kind(), old, new)
                )

    fill(ROOT, "")
    return State(tree, cut.done)


def _set(names: dict[Place, int], place: Place, number: int | None) -> None:
    if number is None:
        names.pop(place, None)
    else:
        names[place] = number


@contextmanager
def recorder(folder: Path) -> Iterator[Recording]:
    """
    Record what the block does to a folder that exists.

    Calls of the system are made as they are; they are only watched. Files that other
    languages write are found when the next call is watched.
    """
    recording = Recording(folder)
    recording.begin()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "rename", "unlink", "remove", "rmdir", "mkdir"):
            patch.setattr(os, name, _watched(recording, name))
        fsync = os.fsync
        patch.setattr(os, "fsync", lambda given: recording.sync(fsync, given))
        yield recording
    recording.around(lambda: None)
    recording.cut()


def _watched(recording: Recording, name: str) -> Callable[..., Any]:
    call = getattr(os, name)
    return lambda *args, **kwargs: recording.around(call, *args, **kwargs)
