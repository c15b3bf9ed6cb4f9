"""
Similarities as whole numbers, in blocks of rows.

An assignment solved in floating point has duals that hold up to rounding. Here a
similarity is rounded towards zero to a multiple of 2^-30 (|cos|) or 2^-29 (signed), and
the solver works on those multiples. A float32 cosine of at least 2^-7 (or 2^-6) is such
a multiple already; a smaller one moves by less than 1e-9 (2e-9). For these
weights the optimum is exact, and duals, totals and gaps are sums of integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.metrics.assignment.scan import Ints, compiled, in_parts, row_blocks
from saereg_plugin.metrics.similarity import unit_rows

LARGEST = 1 << 30
"""No weight is above this, so that differences of two fit 32 bits."""

STORE_BYTES = 2 << 30
"""Weights up to this size (23,170 x 23,170) are kept, larger ones recomputed."""

_MOST_EXPONENT = 1000
"""Powers of two up to this, or down to its negative, leave float64 room for sums and steps."""

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_ALIGNMENT = 16


@dataclass(frozen=True)
class Grid:
    """
    Whole numbers for similarities: similarity = (weight - shift) * step.

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

    @property
    def shape(self) -> tuple[int, int]:
        """(n_a, n_b)."""
        ...

    @property
    def grid(self) -> Grid:
        """The grid of the weights."""
        ...

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
        unit: bool = False,
        store_bytes: int = STORE_BYTES,
        products: AbstractContextManager[object] | None = None,
    ) -> None:
        """
        Take rows.

        Args:
            a, b: rows; they need not have norm 1.
            absolute: |cos| instead of the signed cosine.
            unit: the rows come from ``unit_rows``, so that a dictionary that is matched
                many times is scaled once. They may not change while this is in use.
            store_bytes: weights that need at most this are computed once and kept.
            products: entered around every product, a lock for instance, so that
                several matchings do not compute products at the same time.

        Raises:
            InputError: for rows of different lengths, and for NaN or infinity.
        """
        require_finite(a, "a")
        require_finite(b, "b")
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
        scaled = (
            (a.detach().float(), b.detach().float()) if unit else map(unit_rows, (a, b))
        )
        self._a, self._b = map(_aligned, scaled)
        self._products = products if products is not None else nullcontext()
        self._store_bytes = store_bytes
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

    def take(self, ids_a: Tensor, ids_b: Tensor) -> Weights:
        """
        Return the weights of some rows and columns, as they are here where they are kept.

        Kept weights move over block by block, so that no memory is needed for both; a
        later pass here computes them again.

        Args:
            ids_a, ids_b: numbers of rows and of columns, ascending.
        """
        cut = row_blocks(*self.shape)
        if len(self._kept) < len(cut):
            return RowWeights(
                self._a[ids_a],
                self._b[ids_b],
                absolute=self.absolute,
                unit=True,
                store_bytes=self._store_bytes,
                products=self._products,
            )
        taken: list[tuple[slice, Ints]] = []
        start = 0
        for rows in cut:
            block = torch.from_numpy(self._kept.pop(0))
            inside = ids_a[(ids_a >= rows.start) & (ids_a < rows.stop)] - rows.start
            if len(inside):
                part = block.index_select(0, inside).index_select(1, ids_b)
                taken.append((slice(start, start + len(inside)), part.numpy()))
                start += len(inside)
        return KeptWeights((len(ids_a), len(ids_b)), self.grid, taken)

    def _block(self, rows: slice) -> Ints:
        with self._products:
            product = (self._a[rows] @ self._b.T).numpy()
        out = np.empty(product.shape, np.int32)
        shift = self.grid.shift

        def convert(part: slice) -> None:
            to_grid(product[part], LARGEST - shift, shift, self.absolute, out[part])

        in_parts(convert, len(product))
        return out


@dataclass(frozen=True)
class KeptWeights:
    """Weights that are in memory, see ``Weights``."""

    shape: tuple[int, int]
    grid: Grid
    kept: list[tuple[slice, Ints]]

    def blocks(self) -> Iterator[tuple[slice, Ints]]:
        """Yield the blocks, see ``Weights``."""
        yield from self.kept


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


def require_finite(matrix: Tensor, name: str) -> None:
    """
    Refuse what is no matrix of finite numbers.

    Raises:
        InputError: names the first row that holds NaN or infinity.
    """
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
    """Let every row begin at a multiple of 64 bytes, by zero columns if need be."""
    rows = rows.cpu()
    missing = -rows.shape[1] % _ALIGNMENT
    begins = rows.data_ptr() % (_ALIGNMENT * rows.element_size()) == 0
    if missing == 0 and begins and rows.is_contiguous():
        return rows
    return torch.nn.functional.pad(rows, (0, missing)).contiguous()


class DenseWeights:
    """Weights of a given similarity matrix, scaled to the grid by a power of two."""

    def __init__(self, similarity: Tensor) -> None:
        """
        Take a matrix [n_a, n_b]; of float64 no digit is lost before the grid.

        Raises:
            InputError: if it is no matrix, holds NaN or infinity, or has its largest
                entry outside of 2^-1000 to 2^1000.
        """
        require_finite(similarity, "similarity")
        exact = torch.float32 if similarity.dtype in _FLOATS else torch.float64
        self._matrix = similarity.detach().cpu().to(exact).contiguous()
        self.shape = (similarity.shape[0], similarity.shape[1])
        low, high = (
            (float(bound) for bound in torch.aminmax(self._matrix))
            if self._matrix.numel()
            else (0.0, 0.0)
        )
        half = 0 if low >= 0 else LARGEST // 2
        # 2^exponent is the least power of two that is at least the largest entry
        mantissa, exponent = math.frexp(max(-low, high))
        self._exponent = exponent - (mantissa == 0.5)
        if abs(self._exponent) > _MOST_EXPONENT:
            raise InputError(
                f"The largest entry of similarity is {max(-low, high):g} in size; expected "
                f"0 or 2^-{_MOST_EXPONENT} to 2^{_MOST_EXPONENT} (about 1e-301 to 1e301). "
                "Scale the matrix: the best matching stays the same."
            )
        self.grid = Grid(
            step=math.ldexp(1, self._exponent) / (LARGEST - half), shift=half
        )

    def blocks(self) -> Iterator[tuple[slice, Ints]]:
        """Yield the blocks, see ``Weights``."""
        for rows in row_blocks(*self.shape):
            # in float64: a power of two may be outside of float32's range
            scaled = np.ldexp(self._matrix[rows].double().numpy(), -self._exponent)
            scaled *= LARGEST - self.grid.shift
            yield rows, scaled.astype(np.int32) + np.int32(self.grid.shift)
