"""Stop between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
