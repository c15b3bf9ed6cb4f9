"""Percentile bootstrap over contexts, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval_recipes.statistics.interval import Interval, percentile_interval

Array = NDArray[np.float64]

N_RESAMPLES = 1000
# Weights held at once, as float64: 2^24 are 128 MiB.
_WEIGHT_VALUES = 1 << 24


def resampled_weights(n: int, *, resamples: int, seed: int) -> Iterator[Array]:
    """Yield bootstrap weights over ``n`` contexts in blocks of shape (block, n)."""
    generator = np.random.default_rng(seed)
    block = max(1, _WEIGHT_VALUES // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield generator.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)


def bootstrap(
    statistic: Callable[[Array], Array],
    n: int,
    *,
    resamples: int = N_RESAMPLES,
    seed: int,
) -> Interval:
    """
    Return a statistic of ``n`` contexts with its percentile bootstrap interval.

    ``statistic`` maps weights of shape (weightings, n) to (weightings,). If a resample has no
    value, there is a reason instead of an interval.
    """
    draws = np.concatenate(
        [statistic(w) for w in resampled_weights(n, resamples=resamples, seed=seed)]
    )
    return percentile_interval(float(statistic(np.ones((1, n)))[0]), draws, n)


@dataclass(frozen=True)
class ContextSums:
    """
    Sums over the tokens of each context, from which explained variance follows.

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
