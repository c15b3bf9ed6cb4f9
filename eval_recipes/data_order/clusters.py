"""Clusters of texts, and how far two halves agree on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import normalize

from eval_recipes.data_order.features import Features, Kind, term_table
from eval_recipes.data_order.probes import shuffled
from eval_recipes.data_order.ridge import Index
from eval_recipes.data_order.scores import (
    Difference,
    Score,
    group_numbers,
    with_null,
)
from eval_recipes.statistics.interval import Array, Interval, bootstrap_together

CANDIDATES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
"""Numbers of clusters that are tried."""
TEXTS_PER_CLUSTER = 10
"""Mean size below which a number of clusters is not tried."""
AXES = 50
"""Most axes that clusters are made in."""

_STARTS = 4
_SILHOUETTE_TEXTS = 2000
_KINDS: tuple[Kind, ...] = ("sae", "raw", "tfidf")


@dataclass(frozen=True)
class Clusters:
    """
    Clusters of texts.

    Attributes:
        labels: cluster of each text, the largest first.
        n: number of clusters.
        silhouettes: mean silhouette of each number that was tried.
    """

    labels: NDArray[np.intp]
    n: int
    silhouettes: dict[int, float]


def cluster_texts(features: Features, n: int | None, *, seed: int) -> Clusters:
    """
    Cluster texts by their pooled latents, with k-means.

    Vectors are the square roots of pooled latents, of length 1, on their first ``AXES``
    singular axes. Without ``n``, the number with the highest mean silhouette is taken.
    """
    axes = embedding(features, "sae", seed=seed)
    silhouettes: dict[int, float] = {}
    if n is None:
        most = max(2, len(axes) // TEXTS_PER_CLUSTER)
        for tried in (one for one in CANDIDATES if one <= most):
            labels = _kmeans(axes, tried, seed).labels_
            silhouettes[tried] = _silhouette(axes, labels, seed)
        n = max(silhouettes, key=lambda one: silhouettes[one])
    labels = np.asarray(_kmeans(axes, n, seed).labels_)
    counts = np.bincount(labels, minlength=n)
    place = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")
    return Clusters(place[labels].astype(np.intp), n, silhouettes)


def embedding(features: Features, kind: Kind, *, seed: int) -> Array:
    """Return what texts are clustered in, of one kind of features, (texts, axes)."""
    if kind == "tfidf":
        table: Any = term_table().fit_transform(features.texts)
    elif kind == "sae":
        table = features.sae.sign().multiply(abs(features.sae).sqrt())
    else:
        everything = np.arange(len(features.texts))
        table = features.columns("raw", everything, everything[:0])[0]
    vectors: Any = normalize(csr_matrix(table) if kind == "sae" else table)
    axes = min(AXES, min(vectors.shape) - 1)
    if axes < 1:
        return np.asarray(vectors.toarray() if kind != "raw" else vectors)
    reduced: Any = TruncatedSVD(axes, random_state=seed).fit_transform(vectors)
    return np.asarray(reduced, dtype=np.float64)


def _kmeans(axes: Array, n: int, seed: int) -> Any:
    settings: dict[str, Any] = {"n_init": _STARTS, "random_state": seed}
    return KMeans(n, **settings).fit(axes)


def _silhouette(axes: Array, labels: Any, seed: int) -> float:
    if len(np.unique(labels)) < 2:
        return -1.0
    drawn = np.random.default_rng(seed).permutation(len(axes))[:_SILHOUETTE_TEXTS]
    if len(np.unique(labels[drawn])) in (1, len(drawn)):
        return -1.0
    return float(silhouette_score(axes[drawn], labels[drawn]))


def score_clusters(
    features: Features, groups: Index, n: int, *, permutations: int, seed: int
) -> tuple[list[Score], list[Difference]]:
    """
    Measure how far clusters of one half of the texts predict those of the other.

    Centres from the first half and centres from the second half both assign the texts of the
    second half; the score is the adjusted Rand index of the two assignments. Groups are not
    split. The null shuffles one of the assignments, as labels are.
    """
    numbers, n_groups = group_numbers(groups)
    in_first = np.random.default_rng(seed).permutation(n_groups) < n_groups // 2
    first = in_first[numbers]
    own, n_own = group_numbers(numbers[~first])
    cells: dict[Kind, tuple[Index, Index]] = {}
    for kind in _KINDS:
        axes = embedding(features, kind, seed=seed)
        fewest = min(int(first.sum()), int((~first).sum()))
        by_first = _kmeans(axes[first], min(n, fewest), seed).predict(axes[~first])
        by_second = _kmeans(axes[~first], min(n, fewest), seed).labels_
        cells[kind] = (by_first.astype(np.intp), by_second.astype(np.intp))

    def of(kind: Kind) -> Callable[[Array], Array]:
        return lambda weights: adjusted_rand(*cells[kind], own, weights[:, own])

    def minus(kind: Kind) -> Callable[[Array], Array]:
        one, other = of("sae"), of(kind)
        return lambda weights: one(weights) - other(weights)

    statistics = {str(kind): of(kind) for kind in _KINDS}
    statistics |= {f"sae-{kind}": minus(kind) for kind in _KINDS[1:]}
    found: dict[str, Interval] = bootstrap_together(statistics, n_own, seed=seed)
    scores: list[Score] = []
    once = np.ones((1, len(own)))
    for kind in _KINDS:
        generator, (a, b) = np.random.default_rng(seed), cells[kind]
        null = [
            float(adjusted_rand(shuffled(a, own, generator), b, own, once)[0])
            for _ in range(permutations)
        ]
        scores.append(with_null("clusters", "agreement", kind, found[kind], null))
    differences = [
        Difference("clusters", "agreement", kind, found[f"sae-{kind}"])
        for kind in _KINDS[1:]
    ]
    return scores, differences


def adjusted_rand(a: Index, b: Index, groups: Index, weights: Array) -> Array:
    """
    Return the adjusted Rand index of two assignments, for each weighting of the texts.

    Only pairs of different groups count. Texts of one group are alike, and a group that a
    resample has twice would make pairs with itself.

    Args:
        a: cluster of each text.
        b: another.
        groups: group of each text.
        weights: how often each text counts, shape (weightings, texts).
    """

    def pairs(labels: Index) -> Array:
        _, own = np.unique(np.stack([labels, groups]), axis=1, return_inverse=True)
        inside, together = (_squares(each, weights) for each in (own.ravel(), labels))
        return (together - inside) / 2

    both = pairs(a * (int(b.max()) + 1) + b)
    of_a, of_b, everything = pairs(a), pairs(b), pairs(np.zeros_like(a))
    expected = of_a * of_b / np.where(everything > 0, everything, 1)
    best = (of_a + of_b) / 2
    found = np.ones(len(weights))
    np.divide(
        both - expected, best - expected, out=found, where=best - expected > 1e-12
    )
    return found


def _squares(labels: Index, weights: Array) -> Array:
    """Return the sum over labels of their squared weight, for each weighting."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=labels.min() - 1))
    return np.square(np.add.reduceat(weights[:, order], starts, axis=1)).sum(1)
