"""Metrics of predictions for every weighting of the texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eval_recipes.data_order.probes import Predictions, Target
from eval_recipes.data_order.ridge import Index
from eval_recipes.statistics.interval import Array

METRICS: dict[Target, tuple[str, str]] = {
    "difficulty": ("spearman", "r2"),
    "quality": ("auroc", "balanced_accuracy"),
}
"""Metrics of a target; the first one decides the sentences."""

MAJORITY = {"spearman": 0.0, "r2": 0.0, "auroc": 0.5, "balanced_accuracy": 0.5}
"""Score of a prediction that is the same for all texts: the mean, or the larger class."""


def metric_values(
    metric: str, predictions: Predictions, y: Array, weights: Array
) -> Array:
    """
    Return a metric for each weighting of the texts, shape (weightings,).

    Args:
        metric: one of ``METRICS``.
        predictions: of the texts.
        y: their labels; of quality 1 and 0.
        weights: how often each text counts, shape (weightings, texts).
    """
    return _STATISTICS[metric](predictions, y, weights)


def scores_of(target: Target, predictions: Predictions, y: Array) -> dict[str, float]:
    """Return each metric of a target, all texts weighing the same."""
    once = np.ones((1, len(y)))
    return {
        metric: float(metric_values(metric, predictions, y, once)[0])
        for metric in METRICS[target]
    }


def spearman(x: Array, y: Array, weights: Array) -> Array:
    """
    Return the rank correlation for each weighting of the texts.

    Args:
        x: one value a text.
        y: another.
        weights: how often each text counts, shape (weightings, texts).

    Returns:
        Shape (weightings,); 0 where all x are equal, NaN where all y are.
    """
    a, b = _ranks(x, weights), _ranks(y, weights)
    total = weights.sum(1, keepdims=True)
    a = a - (weights * a).sum(1, keepdims=True) / total
    b = b - (weights * b).sum(1, keepdims=True) / total
    square_a, square_b = (weights * a * a).sum(1), (weights * b * b).sum(1)
    found = np.where(square_b > 1e-9, 0.0, np.nan)
    scale = np.sqrt(square_a * square_b)
    np.divide((weights * a * b).sum(1), scale, out=found, where=scale > 1e-9)
    return found


def weighted_auroc(scores: Array, y: Array, weights: Array) -> Array:
    """Return the AUROC of scores for labels 1 and 0; NaN without texts of both."""
    good = weights * (y == 1)
    n_good, n_bad = good.sum(1), (weights * (y == 0)).sum(1)
    ranks = (good * _ranks(scores, weights)).sum(1)
    return _share(ranks - n_good * (n_good + 1) / 2, n_good * n_bad)


def _ranks(values: Array, weights: Array) -> Array:
    """Return mean ranks of the values, each as often there as its weight says."""
    _, levels = np.unique(values, return_inverse=True)
    order = np.argsort(levels, kind="stable")
    starts: Index = np.flatnonzero(np.diff(levels[order], prepend=-1))
    counts = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = counts.cumsum(1) - (counts - 1) / 2
    return middle[:, levels]


def _share(part: Array, whole: Array) -> Array:
    """Return part / whole, NaN where the whole is 0."""
    found = np.full(len(whole), np.nan)
    np.divide(part, whole, out=found, where=whole > 1e-12)
    return found


def _spearman(predictions: Predictions, y: Array, weights: Array) -> Array:
    return spearman(predictions.centred, y, weights)


def _r2(predictions: Predictions, y: Array, weights: Array) -> Array:
    """Return 1 - squared error / variance; NaN where the labels do not vary."""
    # about a mean, since large labels would cancel
    y, values = y - y.mean(), predictions.values - y.mean()
    variance = weights @ y**2 - (weights @ y) ** 2 / weights.sum(1)
    return 1 - _share(weights @ (y - values) ** 2, variance)


def _auroc(predictions: Predictions, y: Array, weights: Array) -> Array:
    return weighted_auroc(predictions.values, y, weights)


def _balanced_accuracy(predictions: Predictions, y: Array, weights: Array) -> Array:
    """Return the mean of the shares of good and of bad texts that are told right."""
    right = (predictions.values > 0.5) == (y == 1)
    good, bad = (
        _share(weights @ (right & (y == value)), weights @ (y == value))
        for value in (1, 0)
    )
    return (good + bad) / 2


_STATISTICS: dict[str, Callable[[Predictions, Array, Array], Array]] = {
    "spearman": _spearman,
    "r2": _r2,
    "auroc": _auroc,
    "balanced_accuracy": _balanced_accuracy,
}
