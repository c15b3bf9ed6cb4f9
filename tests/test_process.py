"""A process that ends at once: what it says, does and returns before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from saereg_plugin import process as ending
from saereg_plugin.process import stop_on_signal
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_first_signal_requests_and_the_second_interrupts(number: int) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as flag:
        assert not flag.requested
        os.kill(os.getpid(), number)
        assert flag.requested
        with pytest.raises(KeyboardInterrupt, match="second time"):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_terminal_that_hangs_up_twice_requests_once() -> None:
    # the suite itself may run under nohup
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with stop_on_signal() as flag:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGHUP)
                assert flag.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal() as flag:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not flag.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="inside"), stop_on_signal():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with stop_on_signal() as flag:
            seen.extend([signal.getsignal(signal.SIGINT), flag.requested])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, False]
