"""Macro-averaged accuracies over data sets, with intervals over their test texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from eval_recipes.saebench.sparse_probing.paired import Correct, Draws, accuracies
from eval_recipes.statistics.contexts import bootstrap
from eval_recipes.statistics.interval import Interval

Array = NDArray[np.float64]


class Scored(NamedTuple):
    """What the probes of one data set got right, by the name of what they read."""

    draws: Draws
    n_test: int
    """Test texts of the set, used or left out."""
    correct: Mapping[str, Correct]
    left_out: int = 0
    """Test texts not used, since a train text reads the same."""


def macro_accuracy(
    sets: Sequence[Scored], name: str, minus: str | None = None, *, seed: int
) -> Interval:
    """
    Return the mean over sets of the mean over classes of the test accuracy.

    With ``minus``, the difference of two accuracies, paired by text. The interval resamples
    the test texts of all sets together (one text counts in several classes' probes); sets
    and classes stay as they are. A class left without a text in a resample is left out of
    its mean.

    Returns:
        The interval; ``n`` is the number of distinct test texts used.
    """
    # Texts that are left out must not widen the interval, so they get no weight to draw.
    used = [_used(scored) for scored in sets]
    n = sum(map(len, used))

    def statistic(weights: Array) -> Array:
        values: list[Array] = []
        present: list[Array] = []
        start = 0
        for scored, texts in zip(sets, used, strict=True):
            spread = np.zeros((len(weights), scored.n_test))
            spread[:, texts] = weights[:, start : start + len(texts)]
            start += len(texts)
            value, some = _set_mean(spread, scored, name)
            if minus is not None:
                value = value - _set_mean(spread, scored, minus)[0]
            values.append(value)
            present.append(some)
        total = np.sum(values, axis=0)
        return total / np.maximum(np.sum(present, axis=0), 1)

    return bootstrap(statistic, n, seed=seed)


def _used(scored: Scored) -> NDArray[np.int64]:
    return np.unique(np.concatenate([d.test.texts for d in scored.draws.values()]))


def _set_mean(weights: Array, scored: Scored, name: str) -> tuple[Array, Array]:
    """Return the mean over classes (0 where no class has a text), and 1 where one has."""
    classes = list(accuracies(weights, scored.draws, scored.correct[name]))
    total = np.sum([value * some for value, some in classes], axis=0)
    n = np.sum([some for _, some in classes], axis=0)
    return total / np.maximum(n, 1), (n > 0).astype(np.float64)


def wilson(correct: int, n: int, *, level: float = 0.95) -> Interval:
    """
    Return a share of ``n`` independent texts with its Wilson score interval.

    >>> [round(x, 3) for x in wilson(8, 10)[:3]]
    [0.8, 0.49, 0.943]
    """
    low, high = binomtest(correct, n).proportion_ci(level, "wilson")
    return Interval(correct / n, float(low), float(high), n)
