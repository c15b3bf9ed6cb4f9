"""Spearman's rank correlation with its interval and its permutation null."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from eval_recipes.statistics.interval import NO_VARIATION, Array, Interval, bootstrap

FEW_LATENTS = "a rank correlation of fewer than 3 latents says nothing"


class Resamples(Protocol):
    """Settings of a bootstrap."""

    random_seed: int
    n_resamples: int


def rank_correlation(x: Tensor, y: Tensor, config: Resamples) -> Interval | None:
    """
    Return Spearman's rho of two figures of latents [n]; ties are ranked by their mean.

    Interval: bootstrap over latents, which keep their ranks. None if either does not vary.
    """
    n = len(x)
    if n == 0:
        return None
    a, b = (_centred_ranks(values) for values in (x, y))
    if not (np.any(a) and np.any(b)):
        return None

    def rho(w: Array) -> Array:
        total = w.sum(1)
        mean_a, mean_b = (w @ a) / total, (w @ b) / total
        variance = (w @ a**2 - total * mean_a**2) * (w @ b**2 - total * mean_b**2)
        product = w @ (a * b) - total * mean_a * mean_b
        found = np.full(len(w), np.nan)
        np.divide(product, np.sqrt(variance), out=found, where=variance > 1e-9)
        return found

    value = float(rho(np.ones((1, n)))[0])
    if n < 3:
        return Interval(value, None, None, n, FEW_LATENTS)
    figure = bootstrap(rho, n, resamples=config.n_resamples, seed=config.random_seed)
    if figure.low is not None and figure.low == figure.high:
        return Interval(value, None, None, n, NO_VARIATION)
    return figure


def permuted_correlation(
    x: Tensor, y: Tensor, *, permutations: int, seed: int, level: float = 0.95
) -> float | None:
    """
    Return the size of Spearman's rho that chance reaches: the quantile of |rho| if y is shuffled.

    None if either does not vary.
    """
    a, b = (_centred_ranks(values) for values in (x, y))
    size = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    if not size > 0:
        return None
    generator = np.random.default_rng(seed)
    orders = np.tile(b, (permutations, 1))
    found = np.abs(generator.permuted(orders, axis=1) @ a) / size
    return float(np.quantile(found, level))


def _centred_ranks(values: Tensor) -> Array:
    ranks = rankdata(values.double().numpy())
    return ranks - ranks.mean()
