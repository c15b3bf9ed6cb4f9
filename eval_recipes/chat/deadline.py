"""End of an attempt: a moment, or a signal."""

from __future__ import annotations

import threading
import time

from eval_recipes.chat.errors import CalledOff, DeadlinePassed

_SLICE = 0.25
"""Longest single wait, in seconds: the first Ctrl-C must end every wait within two."""


class Deadline:
    """
    Bounds everything that one attempt waits for, together.

    Args:
        seconds: how long the attempt may take from now on.
        signal: ends the attempt when it is set.
    """

    def __init__(self, seconds: float, signal: threading.Event) -> None:
        self.seconds = seconds
        self._signal = signal
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; negative once it has passed."""
        return self._end - time.monotonic()

    def slice(self) -> float:
        """
        Return how long the next wait may block, in seconds.

        Raises:
            CalledOff: if the signal is set.
            DeadlinePassed: if no time is left.
        """
        if self._signal.is_set():
            raise CalledOff("called off")
        left = self.left
        if left <= 0:
            raise DeadlinePassed(f"no complete reply within {self.seconds:g} s")
        return min(left, _SLICE)
