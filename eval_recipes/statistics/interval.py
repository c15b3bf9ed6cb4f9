"""Estimates with confidence intervals, and the bootstrap over contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

NO_VARIATION = "all values are equal, so their spread cannot be estimated"
ONE_SAMPLE = "one sample has no spread"

OVER_SEEDS = frozenset({"seeds", "seed pairs"})
"""Units over which an interval generalises to unseen seeds."""


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    value: float
    low: float | None
    high: float | None
    n: int
    """Latents, contexts, seeds or seed pairs behind the estimate."""
    reason: str | None = None
    """Why there is no interval."""

    @property
    def distinguishable(self) -> bool:
        """Whether there is an interval and it excludes 0."""
        if self.low is None or self.high is None:
            return False
        return self.low > 0 or self.high < 0

    @property
    def ends(self) -> tuple[float, float]:
        """
        Both ends.

        Raises:
            ValueError: if there is no interval, with the reason.
        """
        if self.low is None or self.high is None:
            raise ValueError(f"a figure of {self.n} has no interval: {self.reason}")
        return self.low, self.high

    def within_one(self) -> Interval:
        """
        Return the interval of a figure in [0, 1] without what lies outside.

        >>> Interval(0.25, -0.5, 3.0, 4).within_one()[:3]
        (0.25, 0.0, 1.0)
        """
        if self.low is None or self.high is None:
            return self
        # the figure itself may be above 1 by rounding
        low, high = max(0.0, self.low), min(1.0, self.high)
        return self._replace(low=min(self.value, low), high=max(self.value, high))


def percentile_interval(
    value: float, draws: NDArray[np.float64], n: int, *, level: float = 0.95
) -> Interval:
    """
    Return ``value`` with the percentile interval of its bootstrap resamples ``draws``.

    If a resample has no value (NaN: nothing fired in any of its contexts), there is no
    interval: leaving it out would hide how little data the figure has.

    >>> percentile_interval(0.5, np.array([0.5, np.nan]), 7).reason
    '1 of 2 resamples have no value'
    """
    undefined = int(np.isnan(draws).sum())
    if undefined:
        reason = f"{undefined} of {draws.size} resamples have no value"
        return Interval(value, None, None, n, reason)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n)


def unseen(
    samples: Sequence[tuple[float, float, float, int]], *, level: float = 0.95
) -> tuple[float, float]:
    """
    Return how far a weighted sum of means can lie below and above constant samples.

    A share p of other values stays unseen in n draws with probability (1 - p)^n <= exp(-p n),
    so p is at most ln(2 / (1 - level)) / n on either side: 3.69 / n for 95 %. For several
    independent samples the sum of p_k n_k has that bound.

    Args:
        samples: (weight, value, cap, n) each: n values equal to ``value``, in [0, cap].
        level: coverage.

    >>> [round(end, 6) for end in unseen([(1.0, 0.0, 1.0, 1000)])]
    [0.0, 0.003689]
    """
    bound = float(np.log(2 / (1 - level)))
    ends: list[float] = []
    for side in (-1, 1):
        reaches = [
            (abs(weight) * (cap - value if side * weight > 0 else value), n)
            for weight, value, cap, n in samples
        ]
        rare = max((reach * bound / n for reach, n in reaches), default=0.0)
        ends.append(min(rare, sum(reach for reach, _ in reaches)))
    return ends[0], ends[1]


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


Statistic = Callable[[Array], Array]
"""Maps weights of shape (weightings, n) to (weightings,)."""


def bootstrap(
    statistic: Statistic, n: int, *, resamples: int = N_RESAMPLES, seed: int
) -> Interval:
    """
    Return a statistic of ``n`` contexts with its percentile bootstrap interval.

    If a resample has no value, there is a reason instead of an interval.
    """
    named = {"": statistic}
    return bootstrap_together(named, n, resamples=resamples, seed=seed)[""]


def bootstrap_together(
    statistics: Mapping[str, Statistic],
    n: int,
    *,
    resamples: int = N_RESAMPLES,
    seed: int,
) -> dict[str, Interval]:
    """
    Return several statistics of the same contexts, each as ``bootstrap`` returns it.

    They share the resamples, whose drawing takes longer than most statistics. All resamples of
    one context are that context: there is a reason instead of an interval.
    """
    once = np.ones((1, n))
    if n == 1:
        values = {name: float(made(once)[0]) for name, made in statistics.items()}
        return {
            name: Interval(value, None, None, n, ONE_SAMPLE)
            for name, value in values.items()
        }
    draws: dict[str, list[Array]] = {name: [] for name in statistics}
    for weights in resampled_weights(n, resamples=resamples, seed=seed):
        for name, statistic in statistics.items():
            draws[name].append(statistic(weights))
    return {
        name: percentile_interval(
            float(statistic(once)[0]), np.concatenate(draws[name]), n
        )
        for name, statistic in statistics.items()
    }


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


def wilson(correct: int, n: int, *, level: float = 0.95) -> Interval:
    """
    Return a share of ``n`` independent trials with its Wilson score interval.

    >>> [round(x, 3) for x in wilson(8, 10)[:3]]
    [0.8, 0.49, 0.943]
    """
    low, high = binomtest(correct, n).proportion_ci(level, "wilson")
    return Interval(correct / n, float(low), float(high), n)
