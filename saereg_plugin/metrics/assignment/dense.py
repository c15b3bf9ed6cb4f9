"""Similarities that are given as a matrix, as whole numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.metrics.assignment.blocks import row_blocks
from saereg_plugin.metrics.assignment.heap import Ints
from saereg_plugin.metrics.assignment.weights import (
    LARGEST,
    Grid,
    require_finite,
)

_MOST_EXPONENT = 1000
"""Powers of two up to this, or down to its negative, leave float64 room for sums and steps."""

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


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
