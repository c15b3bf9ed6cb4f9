"""Area under the ROC curve, with DeLong's interval."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from eval_recipes.statistics.interval import Array, Interval

PERFECT = "every input of one set lies above every input of the other"
NO_VARIANCE = "the placements do not vary, so the spread cannot be estimated"


def auroc(a: ArrayLike, b: ArrayLike) -> Interval:
    """
    Return P(x > y) + P(x = y) / 2 for a random x of ``a`` and y of ``b``.

    Interval: DeLong's variance (1988), the sum over both sets of the variance of placements
    divided by their number; normal on the logit scale, so that it stays within 0 and 1.
    ``n`` is the number of values. A perfect separation has no interval.

    Raises:
        ValueError: for fewer than 2 values of a set.

    >>> auroc([3.0, 1.0], [2.0, 0.0]).value
    0.75
    """
    x, y = (np.asarray(values, dtype=np.float64).ravel() for values in (a, b))
    if min(len(x), len(y)) < 2:
        raise ValueError(f"{len(x)} and {len(y)} values; expected 2 of each or more")
    above, below = placements(x, y)
    variance = float(above.var(ddof=1) / len(x) + below.var(ddof=1) / len(y))
    return logit_interval(float(above.mean()), variance, len(x) + len(y))


def placements(a: Array, b: Array) -> tuple[Array, Array]:
    """
    Return the share of ``b`` below each value of ``a``, and of ``a`` above each of ``b``.

    Ties count half; the mean of either is the AUROC. Further axes are separate problems.
    """
    joint = rankdata(np.concatenate([a, b]), axis=0)
    above = (joint[: len(a)] - rankdata(a, axis=0)) / len(b)
    below = 1 - (joint[len(a) :] - rankdata(b, axis=0)) / len(a)
    return above, below


def logit_interval(value: float, variance: float, n: int) -> Interval:
    """Return an AUROC with its interval, normal on the logit scale; ``n`` is the number of values."""
    # a mean of several perfect separations may miss 1 by rounding
    if min(value, 1 - value) <= 1e-12:
        return Interval(float(round(value)), None, None, n, PERFECT)
    if variance <= 1e-15:
        return Interval(value, None, None, n, NO_VARIANCE)
    half = float(norm.ppf(0.975)) * math.sqrt(variance)
    half /= value * (1 - value)
    centre = float(logit(value))
    return Interval(value, float(expit(centre - half)), float(expit(centre + half)), n)


def excess_auroc(x: Array, labels: NDArray[np.bool_]) -> Array:
    """Return AUROC - 1/2 of every column of x (inputs, d) for labels (sets, inputs)."""
    ranks = rankdata(x, axis=0)
    n_first = labels.sum(1, keepdims=True)
    mean = labels.astype(np.float64) @ ranks / n_first
    return (mean - (n_first + 1) / 2) / (len(x) - n_first) - 0.5
