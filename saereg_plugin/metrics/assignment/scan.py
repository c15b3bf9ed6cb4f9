"""Compiled passes over the blocks of a matrix of all pairs."""

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


_CHUNK = 256
"""Weights looked at together before any is looked at alone."""

_STRIDE = 40503
"""Rows begin this many columns apart: far, and odd."""

NONE = -1
"""Stands where fewer candidates were found than there is room for."""


def profitable(
    block: Ints, rows: slice, prices: Ints, floor: Ints, best: Ints, room: int
) -> tuple[Longs, Ints]:
    """
    List the pairs of a block whose profits are above a floor, with their weights.

    Args:
        block: [len(rows), n_b] weights.
        rows: numbers of the block's rows.
        prices: [n_b].
        floor: [len(rows)] profits must be above this.
        best: [len(rows)] written: the largest profit of each row.
        room: pairs to list per row, the most profitable.

    Returns:
        ``row * n_b + column`` of each pair, and its weight.
    """
    column_of = np.empty((len(block), room), np.int32)
    weight_of = np.empty((len(block), room), np.int32)

    def scan(part: slice) -> None:
        scan_rows(
            block[part],
            prices,
            floor[part],
            rows.start + part.start,
            best[part],
            column_of[part],
            weight_of[part],
        )

    in_parts(scan, len(block))
    row, place = np.nonzero(column_of != NONE)
    pair = (row + rows.start) * block.shape[1] + column_of[row, place].astype(np.int64)
    return pair, weight_of[row, place]


@compiled
def scan_rows(
    weights: Ints,
    prices: Ints,
    floor: Ints,
    first_row: int,
    best: Ints,
    column_of: Ints,
    weight_of: Ints,
) -> None:
    """
    Find every row's largest profit (weight - price) and its columns above a floor.

    Of columns that tie, rows prefer different ones, since each begins at another
    place: identical rows that all proposed the same columns could not be matched.

    Args:
        weights: [rows, n_b].
        prices: [n_b].
        floor: [rows] profits must be above this to be listed.
        first_row: number of the first row, from which its starting column follows.
        best: [rows] written: the largest profit.
        column_of: [rows, k] written: columns of the k largest profits above the
            floor, in no order, ``NONE`` after the last.
        weight_of: [rows, k] written: their weights.
    """
    n_b = weights.shape[1]
    room = column_of.shape[1]
    chunks = (n_b + _CHUNK - 1) // _CHUNK
    profits = np.empty(room, np.int32)
    for row in range(weights.shape[0]):
        column_of[row] = NONE
        threshold = np.int32(floor[row])
        largest = np.int32(weights[row, 0] - prices[0])
        listed = 0
        begin = ((first_row + row) * _STRIDE) % n_b
        turned = begin % _CHUNK
        begin //= _CHUNK
        for turn in range(chunks):
            chunk = begin + turn
            if chunk >= chunks:
                chunk -= chunks
            low = chunk * _CHUNK
            high = min(n_b, low + _CHUNK)
            most = np.int32(weights[row, low] - prices[low])
            for column in range(low, high):
                profit = np.int32(weights[row, column] - prices[column])
                if profit > most:
                    most = profit
            if most > largest:
                largest = most
            if most <= threshold:
                continue
            for step in range(low, high):
                column = step + turned % (high - low)
                if column >= high:
                    column -= high - low
                profit = np.int32(weights[row, column] - prices[column])
                if profit <= threshold:
                    continue
                place = listed
                if listed < room:
                    listed += 1
                else:
                    place = 0
                    for other in range(1, room):
                        if profits[other] < profits[place]:
                            place = other
                profits[place] = profit
                column_of[row, place] = column
                weight_of[row, place] = weights[row, column]
                if listed == room:
                    threshold = profits[0]
                    for other in range(1, room):
                        if profits[other] < threshold:
                            threshold = profits[other]
        best[row] = largest


@compiled
def scan_columns(
    weights: Ints,
    first_row: int,
    low: int,
    high: int,
    least: Ints,
    row_of: Ints,
    weight_of: Ints,
) -> None:
    """
    Keep the k largest weights of the columns ``low`` to ``high`` over blocks of rows.

    Args:
        weights: [rows, n_b] the next block.
        first_row: number of its first row.
        low, high: columns to look at.
        least: [n_b] least weight kept of each column; -1 before the first block.
        row_of: [n_b, k] rows of the weights kept, ``NONE`` before the first block.
        weight_of: [n_b, k] the weights; -1 before the first block.
    """
    room = row_of.shape[1]
    for row in range(weights.shape[0]):
        for begin in range(low, high, _CHUNK):
            end = min(high, begin + _CHUNK)
            most = np.int32(weights[row, begin] - least[begin])
            for column in range(begin, end):
                above = np.int32(weights[row, column] - least[column])
                if above > most:
                    most = above
            if most <= 0:
                continue
            for column in range(begin, end):
                weight = weights[row, column]
                if weight <= least[column]:
                    continue
                place = 0
                for other in range(1, room):
                    if weight_of[column, other] < weight_of[column, place]:
                        place = other
                weight_of[column, place] = weight
                row_of[column, place] = first_row + row
                lowest = weight_of[column, 0]
                for other in range(1, room):
                    if weight_of[column, other] < lowest:
                        lowest = weight_of[column, other]
                least[column] = lowest
