"""Calls in a process of their own that need not import everything anew."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def forked(function: Callable[..., T], *arguments: Any, **settings: Any) -> T:
    """Return what ``function`` of a module returns in a copy of this process."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments, **settings).result()
