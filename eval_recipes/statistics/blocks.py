"""Intervals over blocks of neighbouring units, by jackknives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from eval_recipes.statistics.interval import Interval
from eval_recipes.statistics.seeds import t_interval

FEWEST_BLOCKS = 5
"""Blocks below which there is no interval: four degrees of freedom at the least."""


def blocks_of(n: int, blocks: int) -> list[slice]:
    """
    Return at most ``blocks`` slices of neighbours that cover 0 to n, equal to one.

    >>> blocks_of(5, 2)
    [slice(0, 2, None), slice(2, 5, None)]
    """
    count = min(n, blocks)
    ends = [n * number // count for number in range(count + 1)] if count else [0]
    return [slice(start, end) for start, end in zip(ends, ends[1:])]


def block_interval(
    value: float, without: Sequence[float], n: int, *, level: float = 0.95
) -> Interval | None:
    """
    Return a figure with its jackknife interval over blocks of the units behind it.

    With theta_b the figure without block b of B, its variance is
    (B - 1) / B * sum_b (theta_b - mean_b theta_b)^2, and the interval takes Student's t
    quantile on B - 1 degrees of freedom. It assumes that blocks are independent. Units that
    are alike, such as variants of one picture, belong into one block.

    Args:
        value: the figure of all units.
        without: the figure without each block; NaN where it has none.
        n: number of units.
        level: coverage of the interval.

    Returns:
        None if the figure has no value (NaN). Without an interval, the reason.

    >>> block_interval(2.0, [2.0, 2.0, math.nan, 2.0, 2.0], 50).reason
    'without 1 of 5 blocks there is no value'
    """
    values = np.asarray(without, dtype=np.float64)
    blocks = values.size
    undefined = int(np.isnan(values).sum())
    reason = f"without {undefined} of {blocks} blocks there is no value"
    # the sum over blocks times (B - 1) / B
    factor = blocks - 1
    return _interval(
        value, values, factor, blocks, n, reason if undefined else None, level
    )


def halves_of(
    n: int, blocks: int, *, draws: int, seed: int
) -> Iterator[NDArray[np.bool_]]:
    """
    Yield which of ``n`` units are kept when half of their blocks are left out at random.

    Blocks as of ``blocks_of``. Of an odd number the smaller half is left out.

    >>> [int(kept.sum()) for kept in halves_of(12, 4, draws=2, seed=0)]
    [6, 6]
    """
    parts = blocks_of(n, blocks)
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        kept = np.ones(n, dtype=np.bool_)
        for number in generator.permutation(len(parts))[: len(parts) // 2]:
            kept[parts[number]] = False
        yield kept


def half_interval(
    value: float, halves: Sequence[float], blocks: int, n: int, *, level: float = 0.95
) -> Interval | None:
    """
    Return a figure with its delete-half jackknife interval (Shao and Wu 1989).

    For figures that jump, such as those of the largest k of many: leaving out one block hardly
    moves them or moves them by whole ranks, and bootstrap resamples hold fewer different units,
    so that their rankings are noisier and their figures biased. The variance is that of the
    figure over random halves, times (B - d) / d where d of B blocks are left out; the interval
    takes Student's t quantile on B - 1 degrees of freedom and is centred at the figure.

    Args:
        value: the figure of all units.
        halves: the figure of each of ``halves_of``; NaN where it has none.
        blocks: B, number of blocks.
        n: number of units.
        level: coverage of the interval.

    Returns:
        None if the figure has no value (NaN). Without an interval, the reason.

    >>> half_interval(2.0, [1.0, math.nan], 6, 50).reason
    '1 of 2 halves have no value'
    """
    values = np.asarray(halves, dtype=np.float64)
    left_out = max(1, blocks // 2)
    undefined = int(np.isnan(values).sum())
    reason = f"{undefined} of {values.size} halves have no value"
    if values.size < 2:
        undefined, reason = 1, "one half has no spread"
    factor = (blocks - left_out) / left_out
    return _interval(
        value, values, factor, blocks, n, reason if undefined else None, level
    )


def _interval(
    value: float,
    values: NDArray[np.float64],
    factor: float,
    blocks: int,
    n: int,
    reason: str | None,
    level: float,
) -> Interval | None:
    """Return Student's t interval, its variance the mean square of ``values`` times a factor."""
    if math.isnan(value):
        return None
    if blocks < FEWEST_BLOCKS:
        reason = f"fewer than {FEWEST_BLOCKS} blocks"
    if reason:
        return Interval(value, None, None, n, reason)
    variance = factor * float(np.square(values - values.mean()).mean())
    scale = max(abs(value), float(np.abs(values).max()))
    return t_interval(
        value, math.sqrt(variance), freedom=blocks - 1, n=n, level=level, scale=scale
    )
