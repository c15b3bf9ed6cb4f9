"""Stop requests by signal, and the end of a process."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TextIO

INTERRUPTED = 130
"""Exit status of a process that Ctrl-C ended, as shells give it."""


def end_process(error: BaseException | None) -> NoReturn:
    """
    End the process with the exit status and message of ``error``, or with 0.

    A streamed dataset that is not read to its end leaves threads of pyarrow that read ahead.
    They abort the process, or wait for ever, while the interpreter shuts down. So this
    reports the error, runs ``atexit`` functions, flushes, and skips the shutdown.
    """
    status = _report(error)
    atexit._run_exitfuncs()
    logging.shutdown()
    streams: tuple[TextIO | None, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            # the reader has left (`saereg-bench ... | head`), or the disk is full
            status = status or 1
    os._exit(status)


def _report(error: BaseException | None) -> int:
    """Print an error as the interpreter would; return the exit status."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        sys.stderr.write(f"{error.code}\n")
        return 1
    sys.excepthook(type(error), error, error.__traceback__)
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


class StopFlag:
    """Set by the first signal that asks the process to stop; read between steps."""

    def __init__(self) -> None:
        self.requested = False


_NAMES = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""Signals that ask a process to stop, as far as the system has them."""
_HANGUP = getattr(signal, "SIGHUP", None)


@contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """
    Turn the first of ``SIGNALS`` into a request; a second signal interrupts at once.

    SIGHUP never interrupts, since a closed terminal may send it twice. If it is ignored
    (``nohup``) it stays ignored. The earlier handlers come back at the end.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        # only the main thread may handle signals
        yield flag
        return

    def handle(number: int, _: FrameType | None) -> None:
        if flag.requested and number != _HANGUP:
            raise KeyboardInterrupt(f"signal {number} for the second time")
        flag.requested = True

    previous = {
        number: signal.signal(number, handle)
        for number in SIGNALS
        if number != _HANGUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
