"""Full disks and memory are told in one line, with errors that the system really raises."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from eval_recipes import cli
from eval_recipes.commands.console import machine_failure
from saereg_plugin.files import atomic_path

FULL = Path("/dev/full")

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def write(_: Path) -> None:
    with FULL.open("w") as file:
        file.write("x")


def save_torch(_: Path) -> None:
    torch.save({"a": torch.zeros(9)}, FULL)


def write_atomically(folder: Path) -> None:
    with atomic_path(folder / "weights") as temporary:
        temporary.touch()
        write(folder)


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (write, "No space is left on the disk"),
        (save_torch, "No space is left on the disk"),
        (
            write_atomically,
            "weights' was written. Free space and run the command again.",
        ),
    ],
)
def test_a_full_disk_is_told(do: object, words: str, tmp_path: Path) -> None:
    assert callable(do)
    with pytest.raises((OSError, RuntimeError)) as caught:
        do(tmp_path)
    assert words in str(machine_failure(caught.value))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.EDQUOT, "x", "/a/b"),
            "quota is used up while '/a/b' was written",
        ),
        (OSError(errno.EFBIG, "x"), "larger than the system allows"),
        (
            RuntimeError("SafetensorError: No space left on device (os error 28)"),
            "space",
        ),
        (MemoryError(), "Memory is full. Use fewer"),
    ],
)
def test_other_errors_of_the_machine_are_told(error: Exception, words: str) -> None:
    assert words in str(machine_failure(error))
    wrapped = ValueError("while saving")
    wrapped.__cause__ = error
    assert words in str(machine_failure(wrapped))


def test_too_much_memory_is_told() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert "Memory is full (" in str(machine_failure(caught.value))


def test_other_errors_stay_what_they_are() -> None:
    assert machine_failure(ValueError("x")) is None
    assert machine_failure(FileNotFoundError(errno.ENOENT, "x", "y")) is None


def test_the_command_ends_with_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out/x[b]y")

    monkeypatch.setattr(cli, "app", full)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == (
        "error: No space is left on the disk while 'out/x[b]y' was written. Free space and "
        "run the command again.\n"
    )
