"""Percentile bootstrap over contexts, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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

    ``statistic`` maps weights of shape (weightings, n) to (weightings,). There is no
    interval, but a reason, where a resample has no value.
    """
    draws = np.concatenate(
        [statistic(w) for w in resampled_weights(n, resamples=resamples, seed=seed)]
    )
    return percentile_interval(float(statistic(np.ones((1, n)))[0]), draws, n)
