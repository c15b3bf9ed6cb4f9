"""
Similarities as whole numbers, in blocks of rows.

An assignment solved in floating point has duals that hold up to rounding. Here a
similarity is rounded towards zero to a multiple of 2^-30 (|cos|) or 2^-29 (signed), and
the solver works on those multiples. A float32 cosine of at least 2^-7 (or 2^-6) is such
a multiple already; a smaller one moves by less than 1e-9 (2e-9). What is optimal for
these weights is optimal exactly, and duals, totals and gaps are sums of integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.metrics.assignment.compiled import compiled
from saereg_plugin.metrics.assignment.heap import Ints
from saereg_plugin.metrics.similarity import unit_rows

LARGEST = 1 << 30
"""No weight is above this, so that differences of two fit 32 bits."""

BLOCK_ELEMENTS = 1 << 24
"""Weights in one block: 64 MiB, twice (the product and its whole numbers)."""

STORE_BYTES = 2 << 30
"""Weights up to this size (23,170 x 23,170) are kept, larger ones recomputed."""

_ALIGNMENT = 16


@dataclass(frozen=True)
class Grid:
    """
    How whole numbers stand for similarities: similarity = (weight - shift) * step.

    ``shift`` makes every weight >= 0, which does not change the best full matching
    of the smaller side.
    """

    step: float
    shift: int

    def similarity(self, weights: NDArray[np.int64] | Ints) -> NDArray[np.float64]:
        """Return the similarities that weights stand for, exactly."""
        return (weights.astype(np.float64) - self.shift) * self.step


class Weights(Protocol):
    """The weights of every pair of n_a rows and n_b columns, block by block."""

    shape: tuple[int, int]
    grid: Grid

    def blocks(self) -> Iterator[tuple[slice, Ints]]:
        """
        Yield ``(rows, their weights [block, n_b])``, top to bottom.

        Two passes yield the same weights. A block may not be written to, and is valid
        until the next one is asked for.
        """
        ...


class RowWeights:
    """Weights of the pairs of rows of ``a`` [n_a, d] and ``b`` [n_b, d], by cosine."""

    def __init__(
        self,
        a: Tensor,
        b: Tensor,
        *,
        absolute: bool,
        store_bytes: int = STORE_BYTES,
        products: AbstractContextManager[object] | None = None,
    ) -> None:
        """
        Take rows.

        Args:
            a, b: rows; they need not have norm 1.
            absolute: |cos| instead of the signed cosine.
            store_bytes: weights that need at most this are computed once and kept.
            products: entered around every product, a lock for instance, so that
                several matchings do not compute products at the same time.

        Raises:
            InputError: for rows of different lengths, and for NaN or infinity.
        """
        _check(a, "a")
        _check(b, "b")
        if a.shape[1] == 0:
            raise InputError("Rows of a have no entries; expected one or more.")
        if a.shape[1] != b.shape[1]:
            raise InputError(
                f"Rows of a have {a.shape[1]} entries and rows of b {b.shape[1]}; "
                "expected dictionaries of the same d_in."
            )
        self.shape = (len(a), len(b))
        self.absolute = absolute
        half = 0 if absolute else LARGEST // 2
        self.grid = Grid(step=1.0 / (LARGEST - half), shift=half)
        self._a, self._b = _aligned(unit_rows(a)), _aligned(unit_rows(b))
        self._products = products if products is not None else nullcontext()
        self._keep = 4 * len(a) * len(b) <= store_bytes
        self._kept: list[Ints] = []

    def blocks(self) -> Iterator[tuple[slice, Ints]]:
        """
        Yield the blocks, see ``Weights``.

        A product's last bits can depend on its shape, so every pass cuts the same
        blocks, in memory aligned alike.
        """
        for number, rows in enumerate(row_blocks(*self.shape)):
            if number < len(self._kept):
                yield rows, self._kept[number]
                continue
            weights = self._block(rows)
            if self._keep:
                self._kept.append(weights)
            yield rows, weights

    def _block(self, rows: slice) -> Ints:
        with self._products:
            product = (self._a[rows] @ self._b.T).numpy()
        out = np.empty(product.shape, np.int32)
        shift = self.grid.shift

        def convert(part: slice) -> None:
            to_grid(product[part], LARGEST - shift, shift, self.absolute, out[part])

        in_parts(convert, len(product))
        return out


class DenseWeights:
    """Weights of a given similarity matrix, scaled to the grid by a power of two."""

    def __init__(self, similarity: Tensor) -> None:
        """
        Take a matrix [n_a, n_b] of any range.

        Raises:
            InputError: if it is no matrix, or holds NaN or infinity.
        """
        _check(similarity, "similarity")
        self._matrix = similarity.detach().cpu().float().contiguous()
        self.shape = (similarity.shape[0], similarity.shape[1])
        low, high = (
            (float(bound) for bound in torch.aminmax(self._matrix))
            if self._matrix.numel()
            else (0.0, 0.0)
        )
        half = 0 if low >= 0 else LARGEST // 2
        largest = max(-low, high)
        # 2^exponent is the least power of two that is at least the largest entry
        mantissa, exponent = np.frexp(largest)
        exponent = int(exponent) - int(mantissa == 0.5) if largest else 0
        self._exponent = exponent
        self.grid = Grid(step=2.0**exponent / (LARGEST - half), shift=half)

    def blocks(self) -> Iterator[tuple[slice, Ints]]:
        """Yield the blocks, see ``Weights``."""
        for rows in row_blocks(*self.shape):
            # in float64: a power of two may be outside of float32's range
            scaled = self._matrix[rows].double() * 2.0**-self._exponent
            weights = (scaled * (LARGEST - self.grid.shift)).to(torch.int32)
            yield rows, (weights + self.grid.shift).numpy()


def row_blocks(n_a: int, n_b: int) -> list[slice]:
    """Cut n_a rows of n_b weights into blocks of at most ``BLOCK_ELEMENTS``."""
    step = max(1, BLOCK_ELEMENTS // max(1, n_b))
    return [slice(first, min(first + step, n_a)) for first in range(0, n_a, step)]


@compiled
def to_grid(
    product: NDArray[np.float32], scale: int, shift: int, absolute: bool, out: Ints
) -> None:
    """Write ``int(cosine * scale) + shift``, of |cosine| if ``absolute``."""
    factor = np.float32(scale)
    one = np.float32(1)
    added = np.int32(shift)
    for row in range(product.shape[0]):
        if absolute:
            for column in range(product.shape[1]):
                cosine = min(abs(product[row, column]), one)
                out[row, column] = np.int32(cosine * factor)
        else:
            for column in range(product.shape[1]):
                cosine = max(min(product[row, column], one), -one)
                out[row, column] = np.int32(np.int32(cosine * factor) + added)


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


def _check(matrix: Tensor, name: str) -> None:
    if matrix.ndim != 2:
        raise InputError(
            f"{name} has shape {[*matrix.shape]}; expected a matrix of two dimensions."
        )
    finite = matrix.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise InputError(
            f"Row {row} of {name} holds NaN or infinity; expected finite numbers. "
            "Leave such rows out before matching."
        )


def _aligned(rows: Tensor) -> Tensor:
    """Append zero columns, so that every row begins at a multiple of 64 bytes."""
    missing = -rows.shape[1] % _ALIGNMENT
    return torch.nn.functional.pad(rows.cpu(), (0, missing)).contiguous()
