"""Explained variance from sums over contexts, so that it can be streamed and resampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ContextSums:
    """
    Sums over the tokens of each context: all that explained variance needs.

    Attributes:
        count: tokens, shape (contexts,).
        total: sum of x, shape (contexts, d_in).
        square: sum of ||x||^2, shape (contexts,).
    """

    count: Array
    total: Array
    square: Array

    def __add__(self, other: ContextSums) -> ContextSums:
        return ContextSums(
            self.count + other.count,
            self.total + other.total,
            self.square + other.square,
        )


def explained_variance(sums: ContextSums, residual: Array, weights: Array) -> Array:
    """
    Return the share of variance explained, for each weighting of the contexts.

    Args:
        sums: sums over the tokens of each context.
        residual: sum of ||x - x_hat||^2 in each context, shape (contexts,).
        weights: how often each context counts, shape (weightings, contexts).

    Returns:
        1 - residual / variance about the weighted global mean, shape
        (weightings,); NaN where the activations do not vary.
    """
    mean_square = np.square(weights @ sums.total).sum(-1) / (weights @ sums.count)
    variance = weights @ sums.square - mean_square
    explained = np.full(len(weights), np.nan)
    np.divide(weights @ residual, variance, out=explained, where=variance > 0)
    return 1.0 - explained


def concatenate(parts: list[ContextSums]) -> ContextSums:
    """Join the contexts of several batches."""
    return ContextSums(
        count=np.concatenate([part.count for part in parts]),
        total=np.concatenate([part.total for part in parts]),
        square=np.concatenate([part.square for part in parts]),
    )
