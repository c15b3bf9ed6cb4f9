"""The recorder of power cuts tells what is synced from what is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from saereg_plugin.files import write_text
from tests.power_cut import recorder


def contents(folder: Path, write: Callable[[Path], None]) -> set[bytes | None]:
    """What the file "a" may hold after a cut anywhere in ``write``; None if it is missing."""
    (folder / "a").write_text("old")
    with recorder(folder) as recording:
        write(folder / "a")
    states = recording.states(seed=0, samples=4)
    return {state.tree.get("a") for state in states}


def test_atomic_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    found = contents(tmp_path, lambda path: write_text(path, "newer"))
    assert found == {b"old", b"newer"}


def rename_alone(path: Path) -> None:
    path.with_name("b").write_text("newer")
    path.with_name("b").rename(path)


def test_rename_without_sync_may_leave_an_empty_file(tmp_path: Path) -> None:
    found = contents(tmp_path, rename_alone)
    assert {b"old", b"newer", b"", b"ne"} <= found


def test_calls_are_as_before_afterwards(tmp_path: Path) -> None:
    before = os.fsync, os.rename
    with pytest.raises(ValueError, match="inside"), recorder(tmp_path):
        raise ValueError("inside")
    assert (os.fsync, os.rename) == before
