"""Ridge probe of quality, decomposed once for any labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval_recipes.statistics.auroc import auroc
from eval_recipes.statistics.interval import Array

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
"""Penalties on the squared coefficients, times the mean eigenvalue of the texts' products."""

Index = NDArray[np.intp]


class Fitted(NamedTuple):
    """What a probe says of other texts, and its coefficients by column."""

    values: Array
    weights: Array


class Ridge:
    """
    Least squares on labels 1 (good) and 0 (bad) with a penalty on the squared coefficients.

    The penalty is the one with the highest AUROC on the inner folds, all of their texts
    together. Values are scaled so that the bad training texts have the mean 0 and the good ones
    the mean 1, whatever their numbers: texts above .5 are nearer to the good ones.

    Args:
        x: features of the training texts.
        others: features of the others, dense or sparse.
        inner: splits of the training texts.
    """

    def __init__(
        self, x: Array, others: Any, inner: Sequence[tuple[Index, Index]]
    ) -> None:
        self._whole = _Axes(x, others)
        self._inner = [(train, test, _Axes(x[train], x[test])) for train, test in inner]

    def fit(self, y: Array) -> Fitted:
        """Fit on labels of the training texts; without texts of both classes all values are .5."""
        nothing = Fitted(
            np.full(self._whole.n_others, 0.5), np.zeros(self._whole.n_columns)
        )
        if y.min() == y.max():
            return nothing
        penalty = self._penalty(y)
        own = self._whole.own(y, penalty)
        bad, good = own[y == 0].mean(), own[y == 1].mean()
        if good - bad < 1e-12:
            return nothing
        values = (self._whole.others(y, penalty) - bad) / (good - bad)
        return Fitted(values, self._whole.weights(y, penalty) / (good - bad))

    def _penalty(self, y: Array) -> float:
        best, highest = PENALTIES[0], -1.0
        for penalty in PENALTIES:
            scores = np.zeros(len(y))
            for train, test, axes in self._inner:
                scores[test] = axes.others(y[train], penalty)
            found = auroc(scores[y == 1], scores[y == 0]).value
            if found > highest:
                best, highest = penalty, found
        return best


class _Axes:
    """Training texts on the axes of their products, and other texts on the same axes."""

    def __init__(self, x: Array, others: Any) -> None:
        self._mean = x.mean(0)
        self._x = x - self._mean
        self._square, self._axes = np.linalg.eigh(self._x @ self._x.T)
        self._unit = max(float(self._square.mean()), 1e-12)
        products = np.asarray(others @ self._x.T) - self._mean @ self._x.T
        self._others = products @ self._axes
        self.n_others, self.n_columns = len(products), x.shape[1]

    def own(self, y: Array, penalty: float) -> Array:
        """Return what is fitted to the training texts, without the intercept."""
        return self._axes @ (self._square * self._shrunk(y, penalty))

    def others(self, y: Array, penalty: float) -> Array:
        """Return predictions of the other texts, without the intercept."""
        return self._others @ self._shrunk(y, penalty)

    def weights(self, y: Array, penalty: float) -> Array:
        """Return the coefficient of each column."""
        return self._x.T @ (self._axes @ self._shrunk(y, penalty))

    def _shrunk(self, y: Array, penalty: float) -> Array:
        centred = self._axes.T @ (y - y.mean())
        return centred / (self._square + penalty * self._unit)
