"""Linear probes of difficulty and quality, with predictions of held-out texts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNetCV
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from eval_recipes.data_order.features import Features, Kind
from eval_recipes.data_order.ridge import Fitted, Index, Ridge
from eval_recipes.data_order.texts import FEWEST_GROUPS
from eval_recipes.statistics.interval import Array

Target = Literal["difficulty", "quality"]

T = TypeVar("T", bound=NDArray[Any])

FOLDS = 5
INNER_FOLDS = 3
"""Folds inside the training texts, which choose the penalty."""
L1_RATIO = 0.5
"""Share of L1 in the penalty of the elastic net."""
PENALTIES, LEAST_PENALTY = 6, 0.03
"""Penalties of the elastic net that are tried, and the least over that which leaves no column."""

assert FEWEST_GROUPS >= 2 * FOLDS


class Predictions(NamedTuple):
    """Predictions of texts by a probe that has not seen them."""

    values: Array
    """Difficulty in its own unit; quality as ``Ridge`` scales it."""
    centred: Array
    """Values minus the mean label of the training texts, which differs between folds."""


class _Learner(Protocol):
    """A probe of training texts that is fitted to labels, and applied to other texts."""

    def fit(self, y: Array) -> Fitted: ...


@dataclass(frozen=True)
class _Fold:
    """
    One split of the labelled texts.

    Attributes:
        train: numbers of the training texts.
        test: numbers of the others.
        learner: of the features of both.
    """

    train: Index
    test: Index
    learner: _Learner


class Probe:
    """
    A linear probe on one kind of features of labelled texts.

    Difficulty: an elastic net. Quality: a ridge regression on the labels. The penalty is chosen
    inside the training texts of each fold. Groups are never split.

    Args:
        features: of all texts.
        kind: the features to use.
        target: what is predicted.
        labelled: numbers of the labelled texts.
        y: their labels; of quality 1 and 0.
        groups: group of each labelled text.
        seed: of the folds, the same for all kinds.
    """

    def __init__(
        self,
        features: Features,
        kind: Kind,
        target: Target,
        labelled: Index,
        y: Array,
        groups: Index,
        *,
        seed: int,
    ) -> None:
        self._features = features
        self._kind: Kind = kind
        self._target: Target = target
        self._labelled, self._y, self._groups, self._seed = labelled, y, groups, seed
        everything = np.arange(len(y))
        self._folds: list[_Fold] = []
        for train, test in self._splits(everything, FOLDS):
            learner, _ = self._learner(train, labelled[test])
            self._folds.append(_Fold(train, test, learner))

    def held_out(self, y: Array | None = None) -> Predictions:
        """Return predictions of each labelled text by the folds without it; ``y`` are other labels."""
        y = self._y if y is None else y
        values, centred = np.zeros(len(y)), np.zeros(len(y))
        for fold in self._folds:
            predicted = fold.learner.fit(y[fold.train]).values
            values[fold.test] = predicted
            shift = y[fold.train].mean() if self._target == "difficulty" else 0.0
            centred[fold.test] = predicted - shift
        return Predictions(values, centred)

    def predict(self, rest: Index) -> tuple[Array, dict[int, float]]:
        """
        Fit on all labelled texts; predict others.

        Returns:
            Predictions of the texts ``rest``, and the coefficients that are not 0 by column, for
            one standard deviation.
        """
        learner, kept = self._learner(np.arange(len(self._y)), rest)
        values, weights = learner.fit(self._y)
        found = np.flatnonzero(weights)
        return values, {int(kept[j]): float(weights[j]) for j in found}

    def _learner(self, train: Index, rest: Index) -> tuple[_Learner, Index]:
        """Return a probe on some labelled texts, for any others; and the columns that it reads."""
        own = self._labelled[train]
        x, others, kept = self._features.columns(self._kind, own, rest)
        inner = self._splits(train, INNER_FOLDS)
        return _LEARNERS[self._target](x, others, inner), kept

    def _splits(self, texts: Index, n: int) -> list[tuple[Index, Index]]:
        """Return folds of labelled texts, as places in ``texts``; groups stay whole."""
        nothing, groups = np.zeros(len(texts)), self._groups[texts]
        if self._target == "difficulty":
            folds: Any = GroupKFold(n, shuffle=True, random_state=self._seed)
            return list(folds.split(nothing, groups=groups))
        classes = self._y[texts].astype(int)
        folds = StratifiedGroupKFold(n, shuffle=True, random_state=self._seed)
        return list(folds.split(nothing, classes, groups=groups))


class _ElasticNet:
    """Elastic net with the penalty that has the least squared error on the inner folds."""

    def __init__(
        self, x: Array, others: Any, inner: Sequence[tuple[Index, Index]]
    ) -> None:
        self._x, self._others, self._inner = x, others, list(inner)

    def fit(self, y: Array) -> Fitted:
        x = self._x
        covariance = (x - x.mean(0)).T @ (y - y.mean())
        largest = float(np.abs(covariance).max(initial=0.0)) / len(y) / L1_RATIO
        if largest <= 1e-12 * max(1.0, float(np.abs(y).max())):
            values = np.full(self._others.shape[0], y.mean())
            return Fitted(values, np.zeros(x.shape[1]))
        penalties: Any = largest * np.geomspace(1, LEAST_PENALTY, PENALTIES)
        usual: dict[str, Any] = {"l1_ratio": L1_RATIO, "max_iter": 1000, "tol": 1e-3}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            chosen: Any = ElasticNetCV(alphas=penalties, cv=self._inner, **usual)
            # the chosen penalty is fitted to all training texts
            model = chosen.fit(x, y)
        weights = np.asarray(model.coef_)
        values = np.asarray(self._others @ weights).ravel() + float(model.intercept_)
        return Fitted(values, weights)


_LEARNERS: dict[Target, Callable[..., _Learner]] = {
    "difficulty": _ElasticNet,
    "quality": Ridge,
}


def shuffled(y: T, groups: Index, generator: np.random.Generator) -> T:
    """
    Return the labels dealt out anew, without splitting what groups have in common.

    The labels are listed group by group, in random order within each, and dealt to the texts
    group by group in another order. Labels that a group shares stay together; in groups of one
    text all labels are shuffled.
    """
    dealt = np.empty_like(y)
    dealt[_by_group(groups, generator)] = y[_by_group(groups, generator)]
    return dealt


def _by_group(groups: Index, generator: np.random.Generator) -> Index:
    """Return the texts group by group, groups and texts of a group in random order."""
    texts = generator.permutation(len(groups))
    _, numbers = np.unique(groups, return_inverse=True)
    place = generator.permutation(int(numbers.max()) + 1)
    return texts[np.argsort(place[numbers[texts]], kind="stable")]
