"""The binary metrics that upstream's absorption asks of scikit-learn, without its checks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def _counts(truth: Any, predicted: Any) -> tuple[int, int, int]:
    """Return true positives, positives and predicted positives of two boolean arrays."""
    truth, predicted = np.asarray(truth, dtype=bool), np.asarray(predicted, dtype=bool)
    return int((truth & predicted).sum()), int(truth.sum()), int(predicted.sum())


def precision(truth: Any, predicted: Any) -> float:
    """Return the share of the predicted that is true; 0 if nothing is predicted."""
    hits, _, n_predicted = _counts(truth, predicted)
    return hits / n_predicted if n_predicted else 0.0


def recall(truth: Any, predicted: Any) -> float:
    """Return the share of the true that is predicted; 0 if nothing is true."""
    hits, n_true, _ = _counts(truth, predicted)
    return hits / n_true if n_true else 0.0


def f1(truth: Any, predicted: Any) -> float:
    """Return the harmonic mean of precision and recall; 0 where neither is defined."""
    hits, n_true, n_predicted = _counts(truth, predicted)
    return 2 * hits / (n_true + n_predicted) if n_true + n_predicted else 0.0


def roc_auc(truth: Any, scores: Any) -> float:
    """
    Return the share of (true, false) pairs in order, ties by half; NaN without a pair.

    Raises:
        ValueError: if a score is not finite.
    """
    values: NDArray[np.float64] = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a probe's scores contain NaN or infinity")
    truth = np.asarray(truth, dtype=bool)
    n_true = int(truth.sum())
    n_pairs = n_true * (len(truth) - n_true)
    above = rankdata(values)[truth].sum() - n_true * (n_true + 1) / 2
    return float(above / n_pairs) if n_pairs else float("nan")


METRICS = SimpleNamespace(
    f1_score=f1, precision_score=precision, recall_score=recall, roc_auc_score=roc_auc
)
"""
Stands in for ``sklearn.metrics`` where upstream scores its k-sparse probes.

It asks for 26 x (4 + 8 x max_k_value) metrics an SAE, each of which costs scikit-learn some
10 ms of input checks: over 20 s at the published settings, for equal values.
"""
