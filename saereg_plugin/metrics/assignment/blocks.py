"""Blocks of a matrix of all pairs, their parts for threads, and compiled loops."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

import numba
import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")
BLOCK_ELEMENTS = 1 << 24
"""Weights in one block: 64 MiB, twice (the product and its whole numbers)."""


def row_blocks(n_a: int, n_b: int) -> list[slice]:
    """Cut n_a rows of n_b weights into blocks of at most ``BLOCK_ELEMENTS``."""
    step = max(1, BLOCK_ELEMENTS // max(1, n_b))
    return [slice(first, min(first + step, n_a)) for first in range(0, n_a, step)]


class _Part(Protocol):
    def __call__(self, part: slice, /) -> None: ...


def in_parts(work: _Part, length: int) -> None:
    """Call ``work`` on equal slices of ``range(length)``, one for each torch thread."""
    threads = min(torch.get_num_threads(), max(1, length))
    bounds = np.linspace(0, length, threads + 1).astype(int).tolist()
    parts = [slice(*pair) for pair in zip(bounds, bounds[1:], strict=False)]
    if threads == 1:
        work(parts[0])
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))


def compiled(
    function: Callable[_Parameters, _Result],
) -> Callable[_Parameters, _Result]:
    """
    Compile a loop at its first call; it releases the interpreter's lock.

    The machine code is kept on disk next to the module, or in the user's cache where
    that is read-only. Where neither can be written to, every process compiles again.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # numba found no folder for its cache; it looks for one when it decorates
        return numba.njit(nogil=True)(function)
