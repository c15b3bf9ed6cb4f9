"""A process that ends at once: what it says, does and returns before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from saereg_plugin import process as ending
from saereg_plugin.sources import corpora

ENDING = """
import atexit, runpy, sys
# by its file: importing the package takes seconds in every process
end_process = runpy.run_path({ending!r})["end_process"]
{before}
atexit.register(print, "at exit")
try:
    print("started", end=" ")
    {body}
finally:
    end_process(sys.exc_info()[1])
"""


def run(body: str, before: str = "") -> subprocess.CompletedProcess[str]:
    code = ENDING.format(ending=ending.__file__, before=before, body=body)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no such file')", 1, "no such file"),
        ("raise OSError('disk full')", 1, "OSError: disk full"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
    ],
)
def test_status_and_message_are_the_interpreters(
    body: str, status: int, said: str
) -> None:
    ended = run(body)
    assert ended.returncode == status
    assert ended.stdout == "started at exit\n"
    assert ended.stderr.strip().endswith(said)
    assert bool(ended.stderr.strip()) == bool(said)


@pytest.mark.parametrize(
    ("redirection", "status"), [(">&-", 0), (">/dev/full", 1), ("2>&-", 0)]
)
def test_stream_that_takes_nothing_ends_the_process(
    redirection: str, status: int
) -> None:
    code = ENDING.format(ending=ending.__file__, before="", body="pass")
    ended = subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        # with it the first print fails, not the flush at the end
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
    )
    assert (ended.returncode, ended.stderr) == (status, "")


def test_stream_that_was_not_read_to_its_end_holds_nothing_up() -> None:
    """Without ``end_process`` this aborts or hangs nearly every time."""
    folder = corpora.ensure("embedded")
    before = (
        "from datasets import load_dataset\n"
        f"stream = load_dataset({folder!r}, split='train', streaming=True)\n"
        "class Store:\n"
        "    def rows(self):\n"
        "        yield from stream\n"
        "store = Store()\n"
        "store.iterator = store.rows()"
    )
    ended = run("print(len(next(store.iterator)))", before)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "started 1\nat exit\n"
