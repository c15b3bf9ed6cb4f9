"""Calling off requests: those that belong together, or all for good."""

from __future__ import annotations

import threading
from weakref import WeakSet


class Signals:
    """
    Events that end requests once they are set; safe to use from several threads.

    Attributes:
        stopped: set by ``stop``.
    """

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._given: WeakSet[threading.Event] = WeakSet()
        self._lock = threading.Lock()

    def new(self) -> threading.Event:
        """Return an event for some requests; ``stop`` sets it, too."""
        signal = threading.Event()
        with self._lock:
            self._given.add(signal)
            if self.stopped.is_set():
                signal.set()
        return signal

    def stop(self) -> None:
        """Set every event."""
        with self._lock:
            self.stopped.set()
            for signal in self._given:
                signal.set()
