"""Estimates with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_VARIATION = "all values are equal, so their spread cannot be estimated"

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
