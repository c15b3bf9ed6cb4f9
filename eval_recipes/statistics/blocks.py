"""Intervals over blocks of images, by a delete-one-block jackknife."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

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
    if math.isnan(value):
        return None
    values = np.asarray(without, dtype=np.float64)
    if values.size < FEWEST_BLOCKS:
        reason = f"fewer than {FEWEST_BLOCKS} blocks"
        return Interval(value, None, None, n, reason)
    undefined = int(np.isnan(values).sum())
    if undefined:
        reason = f"without {undefined} of {values.size} blocks there is no value"
        return Interval(value, None, None, n, reason)
    freedom = values.size - 1
    variance = freedom / values.size * float(np.square(values - values.mean()).sum())
    scale = max(abs(value), float(np.abs(values).max()))
    return t_interval(
        value, math.sqrt(variance), freedom=freedom, n=n, level=level, scale=scale
    )
