"""Results of a function, computed ahead in another thread."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

_CORES_FOR_TWO = 4


def has_cores_for_two() -> bool:
    """Return whether this process may use the cores that two computations need."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) >= _CORES_FOR_TWO
    return (os.cpu_count() or 1) >= _CORES_FOR_TWO


class Prefetch(Generic[T]):
    """
    Results of a function, computed in a background thread ahead of ``take``.

    Results come in the order of the calls. An error of a call is raised by the ``take``
    that would have returned its result.

    Args:
        produce: makes the next result; one thread calls it at a time.
        depth: number of results computed ahead; 0 computes them in ``take``.
    """

    def __init__(self, produce: Callable[[], T], depth: int):
        self._produce = produce
        self._depth = depth
        self._waiting: deque[Future[T]] = deque()
        self._pool = ThreadPoolExecutor(1, "prefetch") if depth else None

    def take(self) -> T:
        """Return the next result."""
        if self._pool is None:
            return self._produce()
        while len(self._waiting) <= self._depth:
            self._waiting.append(self._pool.submit(self._produce))
        return self._waiting.popleft().result()

    def close(self) -> None:
        """Wait for the running call and drop the others; ends ``take``."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
