"""Counts of each latent's active values, and quantiles read off them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from eval_recipes.examples.pile import Floats, Ints

STEPS = 16
"""Bins of equal width between a power of two and the next."""

_LOWEST, _HIGHEST = -16, 16
"""Exponents between which bins are; the first and the last bin have what is beyond."""

BINS = STEPS * (_HIGHEST - _LOWEST)
BYTES = 4 * BINS
"""Of one latent's counts."""

_MANTISSA_BITS, _BIAS = 23, 127
_SHIFT = _MANTISSA_BITS - 4
_FIRST = (_BIAS + _LOWEST) << 4


def bin_of(values: Floats) -> Ints:
    """
    Return the bin of positive float32 values: power of two and the next four bits.

    >>> (bin_of(np.array([1, 1.06, 1.0625, 2], np.float32)) - 16 * STEPS).tolist()
    [0, 0, 1, 16]
    """
    bits = values.view(np.int32).astype(np.int64)
    return np.clip((bits >> _SHIFT) - _FIRST, 0, BINS - 1)


def lower_edges() -> NDArray[np.float64]:
    """Return the lower edge of each bin; that of the first is 0."""
    exponent, step = np.divmod(np.arange(BINS), STEPS)
    edges = np.ldexp(1 + step / STEPS, exponent + _LOWEST)
    edges[0] = 0
    return edges


class Histogram:
    """
    Exact counts of active values per latent, in bins that need no maximum to be known.

    A bin is at most a sixteenth as wide as its values are large.
    """

    def __init__(self, n_latents: int) -> None:
        self._counts = torch.zeros(n_latents * BINS, dtype=torch.int32)

    def add(self, latents: Ints, values: Floats) -> None:
        """Count values, one of each latent named."""
        place = torch.from_numpy(latents * BINS + bin_of(values))
        ones = torch.ones(len(place), dtype=torch.int32)
        self._counts.scatter_add_(0, place, ones)

    @property
    def counts(self) -> NDArray[np.int32]:
        """Values in each bin, [latents, BINS]."""
        return self._counts.view(-1, BINS).numpy()

    def bands(self, latents: Ints, values: Floats, n: int) -> Ints:
        """
        Return the quantile band of active values, from 0 for the lowest to ``n`` - 1.

        A value's quantile is the middle rank of its bin among the latent's active values:
        (values in lower bins + half of those in its own) / all.
        """
        total = self.counts.cumsum(1, dtype=np.int64)
        bins = bin_of(values)
        twice_rank = 2 * total[latents, bins] - self.counts[latents, bins]
        return np.minimum(twice_rank * n // (2 * total[latents, -1]), n - 1)

    def linear(
        self, maxima: NDArray[np.float64]
    ) -> tuple[list[list[float]], list[list[int]]]:
        """
        Return edges and counts of 17 to 32 bins of equal width from 0 to each maximum.

        The width is a power of two, so that whole bins are joined and the counts stay exact.
        Both lists are empty where the maximum is 0. Beyond 2^16 the last bin is wider.
        """
        edges: list[list[float]] = [[] for _ in maxima]
        counts: list[list[int]] = [[] for _ in maxima]
        exponents = np.clip(np.frexp(maxima)[1] - 1, _LOWEST + 5, _HIGHEST - 1) - 4
        for exponent in np.unique(exponents[maxima > 0]):
            rows = np.flatnonzero((exponents == exponent) & (maxima > 0))
            width = float(np.ldexp(1.0, exponent))
            starts = np.searchsorted(lower_edges(), width * np.arange(2 * STEPS))
            joined = np.add.reduceat(self.counts[rows], starts, axis=1)
            for row, found in zip(rows, joined):
                n = min(int(maxima[row] // width) + 1, 2 * STEPS)
                counts[row] = found[:n].tolist()
                last = max(n * width, float(maxima[row]))
                edges[row] = [*(width * np.arange(n)).tolist(), last]
        return edges, counts
