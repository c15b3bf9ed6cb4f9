"""How well single latents tell two sets of texts apart: AUROC with DeLong's interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.stats.rates import Array

FEWEST_TEXTS = 4
"""Texts of each set: half of them select, half of them measure."""

PERFECT = "every text of one set lies above every text of the other"
NO_VARIANCE = "the placements do not vary, so the spread cannot be estimated"


def auroc(a: ArrayLike, b: ArrayLike, *, level: float = 0.95) -> Interval:
    """
    Return P(x > y) + P(x = y) / 2 for a random x of ``a`` and y of ``b``.

    Interval: DeLong's variance (1988), which is the sum over both sets of the variance of
    placements by their number; normal on the logit scale, so that it stays within 0 and 1.
    ``n`` is the number of values. A perfect separation has no interval.

    Args:
        a: values of the first set, at least 2.
        b: values of the second set, at least 2.
        level: coverage.

    Raises:
        ValueError: for fewer values.

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
    half = float(norm.ppf((1 + level) / 2)) * math.sqrt(variance)
    half /= value * (1 - value)
    centre = float(logit(value))
    return Interval(value, float(expit(centre - half)), float(expit(centre + half)), n)


def aurocs(a: ArrayLike, b: ArrayLike) -> Array:
    """
    Return the AUROC of every column, shape (d,).

    Args:
        a: values of the first set, shape (n_a, d).
        b: values of the second set, shape (n_b, d).
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (a, b))
    joint = rankdata(np.concatenate([x, y]), axis=0)
    return (joint[: len(x)].mean(0) - (len(x) + 1) / 2) / len(y)


@dataclass(frozen=True)
class Split:
    """Texts that select latents and train probes, and texts that measure; by index."""

    select: NDArray[np.intp]
    measure: NDArray[np.intp]


def halves(n: int, *, seed: int) -> Split:
    """
    Split ``n`` texts at random into halves; the first is the larger if ``n`` is odd.

    Raises:
        ValueError: for fewer than ``FEWEST_TEXTS``.
    """
    if n < FEWEST_TEXTS:
        raise ValueError(f"{n} texts; expected {FEWEST_TEXTS} or more")
    order = np.random.default_rng(seed).permutation(n)
    cut = (n + 1) // 2
    return Split(np.sort(order[:cut]), np.sort(order[cut:]))


@dataclass(frozen=True)
class Separating:
    """A latent that was chosen because it separates two sets of texts."""

    latent: int
    selected: float
    """AUROC on the texts that it was chosen by: too good, since it is the best of many."""
    measured: Interval
    """AUROC on the other texts: an honest figure."""


def best_latents(
    a: Array, b: Array, pool: list[int], n: int, *, seed: int
) -> list[Separating]:
    """
    Return the latents that are larger on ``a`` than on ``b``, best first.

    Half of each set ranks the latents by AUROC, ties by id; the other half gives the
    figure that is reported.

    Args:
        a: a value of each text and latent, shape (n_a, d_sae).
        b: the same of the other set, shape (n_b, d_sae).
        pool: latents to choose from.
        n: how many.
        seed: of the split.
    """
    chosen_a, chosen_b = halves(len(a), seed=seed), halves(len(b), seed=seed)
    columns = np.array(pool)
    ranked = aurocs(a[chosen_a.select][:, columns], b[chosen_b.select][:, columns])
    order = np.lexsort((columns, -ranked))[:n]
    return [
        Separating(
            latent=int(columns[place]),
            selected=float(ranked[place]),
            measured=auroc(
                a[chosen_a.measure, columns[place]], b[chosen_b.measure, columns[place]]
            ),
        )
        for place in order
    ]
