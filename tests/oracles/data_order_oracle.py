"""Slow, plain versions of what orders texts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score, roc_auc_score

Array = NDArray[np.float64]


def repeated(weights: Array) -> NDArray[np.intp]:
    """Return each number as often as its weight says."""
    return np.repeat(np.arange(len(weights)), weights.astype(int))


def metric(name: str, values: Array, y: Array, weights: Array) -> float:
    """Return a metric of texts that are there as often as their weights say."""
    rows = repeated(weights)
    values, y = values[rows], y[rows]
    if name == "spearman":
        return float(spearmanr(values, y).statistic)
    if name == "r2":
        return float(r2_score(y, values))
    if name == "auroc":
        return float(roc_auc_score(y, values))
    told = values > 0.5
    return float((told[y == 1].mean() + (~told[y == 0]).mean()) / 2)


def adjusted_rand(
    a: list[int], b: list[int], groups: list[int], weights: Array
) -> float:
    """Return the adjusted Rand index over all pairs of texts of different groups."""
    rows = repeated(weights).tolist()
    pairs = [(i, j) for i, j in combinations(rows, 2) if groups[i] != groups[j]]
    in_a = [a[i] == a[j] for i, j in pairs]
    in_b = [b[i] == b[j] for i, j in pairs]
    both = sum(x and y for x, y in zip(in_a, in_b, strict=True))
    expected = sum(in_a) * sum(in_b) / len(pairs)
    best = (sum(in_a) + sum(in_b)) / 2
    return (both - expected) / (best - expected)


def ridge(x: Array, y: Array, others: Array, penalty: float) -> Array:
    """Return predictions, scaled so that the classes' training means are 0 and 1."""
    centred = x - x.mean(0)
    unit = np.square(centred).sum() / len(x)
    model = Ridge(alpha=penalty * unit, solver="svd").fit(x, y)
    own = model.predict(x)
    bad, good = own[y == 0].mean(), own[y == 1].mean()
    return (model.predict(others) - bad) / (good - bad)


def pooled(codes: list[list[float]], pool: str) -> list[float]:
    """Return the vector of one text's codes, latent by latent."""
    found: list[float] = []
    for latent in range(len(codes[0])):
        values = [row[latent] for row in codes]
        if pool == "max":
            found.append(max(values))
        elif pool == "share":
            found.append(sum(value != 0 for value in values) / len(values))
        else:
            found.append(sum(values) / len(values))
    return found
