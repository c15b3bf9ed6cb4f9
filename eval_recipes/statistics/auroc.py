"""Area under the ROC curve, with DeLong's interval."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from eval_recipes.statistics.interval import Interval

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
    n = len(x) + len(y)
    joint = rankdata(np.concatenate([x, y]))
    above = (joint[: len(x)] - rankdata(x)) / len(y)
    below = 1 - (joint[len(x) :] - rankdata(y)) / len(x)
    value = float(above.mean())
    variance = float(above.var(ddof=1) / len(x) + below.var(ddof=1) / len(y))
    if value in (0.0, 1.0):
        return Interval(value, None, None, n, PERFECT)
    if variance <= 1e-15:
        return Interval(value, None, None, n, NO_VARIANCE)
    half = float(norm.ppf(0.975)) * math.sqrt(variance)
    half /= value * (1 - value)
    centre = float(logit(value))
    return Interval(value, float(expit(centre - half)), float(expit(centre + half)), n)
