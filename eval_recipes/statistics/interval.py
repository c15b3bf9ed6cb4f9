"""An estimate with its interval, and how resamples become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_VARIATION = "all values are equal, so their spread cannot be estimated"

OVER_SEEDS = frozenset({"seeds", "seed pairs"})
"""What an interval must be over to say anything about seeds that were not trained."""


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    value: float
    low: float | None
    high: float | None
    n: int
    """How many latents, contexts, seeds or seed pairs the estimate averages."""
    reason: str | None = None
    """Why there is no interval."""

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 0; never so without an interval."""
        if self.low is None or self.high is None:
            return False
        return self.low > 0 or self.high < 0

    @property
    def ends(self) -> tuple[float, float]:
        """
        Both ends, for a figure that is of no use without them.

        Raises:
            ValueError: if there is no interval; says why.
        """
        if self.low is None or self.high is None:
            raise ValueError(f"a figure of {self.n} has no interval: {self.reason}")
        return self.low, self.high


def percentile_interval(
    value: float, draws: NDArray[np.float64], n: int, *, level: float = 0.95
) -> Interval:
    """
    Return ``value`` with the percentile interval of its bootstrap resamples ``draws``.

    Where a resample has no value (NaN: nothing fired in any of its contexts) there is no
    interval: leaving it out would hide that the figure rests on so little.

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
    How far a weighted sum of means can lie below and above samples that do not vary.

    A sample of n equal values does not show what is rarer than 1 in n. By the binomial
    law a share p of other values stays unseen with probability (1 - p)^n <= exp(-p n), so
    at the level asked for p is at most ln(2 / (1 - level)) / n: 3.69 / n for 95 %, on
    either side. Of several independent samples the sum of p_k n_k has that bound.

    Args:
        samples: (weight, value, cap, n) each: n values that all equal ``value`` and cannot
            leave [0, cap].
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
