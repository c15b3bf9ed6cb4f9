"""The end of a command, without waiting for threads that read ahead."""

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
    End the process with the exit status and message that ``error`` gives, or with 0.

    A streamed dataset that was not read to its end leaves threads (pyarrow's) that read ahead
    through Python files. If the interpreter is taken down meanwhile, they abort the process or
    wait for ever. So what is to be done at an end is done (errors, functions of ``atexit``,
    flushing), and the process ends without taking the interpreter down.
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
            # whoever read it has left (`saereg-bench ... | head`), or its disk is full
            status = status or 1
    os._exit(status)


def _report(error: BaseException | None) -> int:
    """Say what the interpreter would say of the error; return the exit status."""
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
    """Set by the first signal that asks for an end; read between steps."""

    def __init__(self) -> None:
        self.requested = False


_NAMES = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""Signals that ask for an end; not every system has all of them."""
_HANGUP = getattr(signal, "SIGHUP", None)


@contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """
    Turn the first of ``SIGNALS`` into a request; a second one interrupts at once.

    SIGHUP only requests: a closed terminal may send it twice. Where it is ignored
    (``nohup``) it stays ignored. The handlers that were there before are put back at the
    end.
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
