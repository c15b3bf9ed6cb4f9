"""Intervals for figures over latents and over seeds, and differences of groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

from eval_recipes.statistics.interval import (
    NO_VARIATION,
    Interval,
    percentile_interval,
    unseen,
)

BOOTSTRAP_CHUNK_ELEMENTS = 1 << 18
"""Values drawn at a time, so that they stay in the processor's cache."""

FEW_LEVELS = 32
"""Arrays with no more distinct values (say indicators) are resampled by value."""

ROUNDING = 1e-12
"""Standard errors up to this share of the numbers' size are rounding, not variation."""

SeedPair = tuple[int, int]
"""Two different seeds; (s, t) and (t, s) are the same pair."""


def bootstrap_mean_interval(
    values: Sequence[ArrayLike],
    *,
    weights: Sequence[float] | None = None,
    caps: Sequence[float] | None = None,
    n_resamples: int = 1000,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """
    Return ``sum_k weights[k] * mean(values[k])`` with a percentile bootstrap interval.

    The arrays are independent samples (say the latents of different SAEs), each resampled on
    its own. ``n`` is the length of the first. The same arguments give the same interval.

    Constant arrays (a share of 0 or 1) show no spread. With ``caps`` they widen the interval
    by ``unseen``; without, there is no interval if no array varies.

    Args:
        values: one or more arrays of finite numbers, [n_k] each, not empty.
        weights: one per array; 1 / number of arrays by default.
        caps: one per array, whose values are in [0, cap]; 1 for shares.
        n_resamples: bootstrap resamples.
        seed: seed of the resampling.
        level: coverage of the interval.

    >>> bootstrap_mean_interval([[1.0, 1.0], [3.0]], seed=0)[:4]
    (2.0, None, None, 2)
    >>> [round(x, 4) for x in bootstrap_mean_interval([[0.0] * 10], caps=[1], seed=0)[:3]]
    [0.0, 0.0, 0.3689]
    """
    arrays = [np.asarray(array, dtype=np.float64).ravel() for array in values]
    if not arrays or any(array.size == 0 for array in arrays):
        raise ValueError("expected one or more arrays, none of them empty")
    weighted = [1 / len(arrays)] * len(arrays) if weights is None else list(weights)
    for given, name in ((weighted, "weights"), (caps, "caps")):
        if given is not None and len(given) != len(arrays):
            raise ValueError(f"{len(given)} {name} for {len(arrays)} arrays")
    generator = np.random.default_rng(seed)
    value, n = 0.0, arrays[0].size
    resampled = np.zeros(n_resamples)
    for array, weight in zip(arrays, weighted, strict=True):
        value += weight * float(array.mean())
        resampled += weight * _resampled_means(array, n_resamples, generator)
    constant = [array.min() == array.max() for array in arrays]
    if all(constant) and caps is None:
        return Interval(value, None, None, n, NO_VARIATION)
    # All constant, the resamples are the value itself but for rounding.
    interval = (
        Interval(value, value, value, n)
        if all(constant)
        else percentile_interval(value, resampled, n, level=level)
    )
    if caps is None or interval.low is None or interval.high is None:
        return interval
    below, above = unseen(
        [
            (weight, float(array[0]), cap, array.size)
            for array, weight, cap, same in zip(
                arrays, weighted, caps, constant, strict=True
            )
            if same
        ],
        level=level,
    )
    return interval._replace(low=interval.low - below, high=interval.high + above)


def _resampled_means(
    array: NDArray[np.float64], n_resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return means of ``n_resamples`` draws with replacement, in bounded memory."""
    levels, counts = np.unique(array, return_counts=True)
    if len(levels) <= FEW_LEVELS:
        # How often each value is drawn is multinomial: the same law, without indices.
        share = counts / array.size
        drawn = generator.multinomial(array.size, share, size=n_resamples)
        return (drawn / array.size) @ levels
    means = np.empty(n_resamples)
    step = max(1, BOOTSTRAP_CHUNK_ELEMENTS // array.size)
    for start in range(0, n_resamples, step):
        size = (min(step, n_resamples - start), array.size)
        indices = generator.integers(array.size, size=size, dtype=np.int32)
        means[start : start + size[0]] = array[indices].mean(axis=1)
    return means


def seed_interval(
    values: Mapping[int, float], *, level: float = 0.95, scale: float | None = None
) -> Interval:
    """
    Return the mean over seeds with Student's t interval; none if the values do not vary.

    Args:
        values: by seed.
        level: coverage of the interval.
        scale: size of the numbers behind the values, which bounds their rounding; the
            largest value by default.
    """
    numbers = np.array([values[seed] for seed in sorted(values)], dtype=np.float64)
    if numbers.size == 0:
        raise ValueError("expected one or more seeds")
    if numbers.size == 1:
        return Interval(float(numbers[0]), None, None, 1, "one seed has no spread")
    error = float(numbers.std(ddof=1)) / math.sqrt(numbers.size)
    size = float(np.abs(numbers).max()) if scale is None else scale
    return t_interval(
        float(numbers.mean()),
        error,
        freedom=numbers.size - 1,
        n=numbers.size,
        level=level,
        scale=size,
    )


def paired_difference(
    a: Mapping[int, float], b: Mapping[int, float], *, level: float = 0.95
) -> Interval:
    """
    Return the mean of ``a - b``, paired by seed, with Student's t interval.

    Raises:
        ValueError: if the seeds differ.
    """
    if set(a) != set(b):
        raise ValueError(f"seeds differ: {sorted(a)} and {sorted(b)}")
    # a difference is as inexact as the larger of its two numbers
    return seed_interval(
        {seed: a[seed] - b[seed] for seed in a}, level=level, scale=_size(a, b)
    )


def seed_pair_interval(
    pairs: Mapping[SeedPair, float], *, level: float = 0.95
) -> Interval:
    """
    Return the mean over all pairs of seeds with a delete-one-seed jackknife interval.

    Pairs that share a seed are not independent: the mean is a U-statistic of
    order 2 over S seeds. With theta_s the mean over the pairs without seed s, its
    variance is (S - 1) / S * sum_s (theta_s - mean_s theta_s)^2, and the interval
    takes Student's t quantile on S - 1 degrees of freedom. Two seeds give one
    pair, hence no interval.

    Raises:
        ValueError: if a pair of the seeds is missing or comes twice.
    """
    values = {(min(pair), max(pair)): value for pair, value in pairs.items()}
    seeds = sorted({seed for pair in values for seed in pair})
    if len(values) != len(pairs) or set(values) != set(combinations(seeds, 2)):
        raise ValueError(f"expected every pair of the seeds {seeds} once")
    if len(seeds) < 2:
        raise ValueError("expected one or more pairs of different seeds")
    mean = float(np.mean(list(values.values())))
    if len(seeds) == 2:
        reason = "two seeds give one pair, which has no spread"
        return Interval(mean, None, None, 1, reason)
    without = np.array(
        [
            np.mean([value for pair, value in values.items() if seed not in pair])
            for seed in seeds
        ]
    )
    count = len(seeds)
    variance = (count - 1) / count * float(((without - without.mean()) ** 2).sum())
    return t_interval(
        mean,
        math.sqrt(variance),
        freedom=count - 1,
        n=len(values),
        level=level,
        scale=_size(values),
    )


FEWEST_SEEDS = 5
"""Seeds below which pairs get no interval: four degrees of freedom at the least."""

FEW_SEEDS = f"fewer than {FEWEST_SEEDS} seeds: the pairs' values are listed instead"


def over_pairs(values: Mapping[SeedPair, float]) -> Interval:
    """
    Return the mean over all pairs of seeds, with a jackknife interval over the seeds.

    With fewer than ``FEWEST_SEEDS`` there is none: two or three degrees of freedom say
    next to nothing about the spread, and the few values themselves say more.
    """
    interval = seed_pair_interval(values)
    if len({seed for pair in values for seed in pair}) < FEWEST_SEEDS:
        return interval._replace(low=None, high=None, reason=FEW_SEEDS)
    return interval


def _size(*values: Mapping[Any, float]) -> float:
    """Return the largest absolute value."""
    return max((abs(x) for each in values for x in each.values()), default=0.0)


def t_interval(
    mean: float, error: float, *, freedom: int, n: int, level: float, scale: float
) -> Interval:
    """
    Return Student's t interval of an estimate; none if its error is rounding.

    Args:
        mean: the estimate.
        error: its standard error.
        freedom: degrees of freedom.
        n: number of units behind the estimate.
        level: coverage of the interval.
        scale: size of the numbers behind the estimate, which bounds their rounding.
    """
    if error <= ROUNDING * scale:
        # a handful of equal values says nothing about how much they could vary
        return Interval(mean, None, None, n, NO_VARIATION)
    low, high = student_t.interval(level, freedom, loc=mean, scale=error)
    return Interval(mean, float(low), float(high), n)
