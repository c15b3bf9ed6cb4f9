"""Processes of their own that need not import everything anew: forks of this process."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_FORK = multiprocessing.get_context("fork")


def forked(function: Callable[..., T], *arguments: Any, **settings: Any) -> T:
    """Return what ``function`` of a module returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=_FORK) as pool:
        return pool.submit(function, *arguments, **settings).result()


def started(log: Path, function: Callable[..., object], *arguments: Any) -> ForkProcess:
    """Start ``function`` in a process whose standard error goes to ``log``."""
    process = _FORK.Process(target=_logged, args=(log, function, arguments))
    process.start()
    return process


def _logged(
    log: Path, function: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    with log.open("wb") as sink:
        os.dup2(sink.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    function(*arguments)
