"""Stop between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopFlag:
    """Set by the first Ctrl-C or termination signal; read between steps."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """
    Turn the first SIGINT or SIGTERM into a request; a second one interrupts at once.

    The handlers that were there before are put back at the end.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        # only the main thread may handle signals
        yield flag
        return

    def handle(number: int, _: FrameType | None) -> None:
        if flag.requested:
            raise KeyboardInterrupt(f"signal {number} for the second time")
        flag.requested = True

    previous = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
