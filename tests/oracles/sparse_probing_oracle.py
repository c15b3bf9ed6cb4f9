"""Slow versions of the corrected sparse-probing figures, one text at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression


def top_k_correct(
    train: dict[str, torch.Tensor],
    test: dict[str, torch.Tensor],
    train_texts: Sequence[int],
    train_labels: Sequence[int],
    test_texts: Sequence[int],
    test_labels: Sequence[int],
    k: int,
) -> list[bool]:
    """Pick k features by difference of means, fit a logistic regression, ask it each text."""
    rows = [row.tolist() for tensor in train.values() for row in tensor]
    test_rows = [row.tolist() for tensor in test.values() for row in tensor]
    positives = [rows[t] for t, y in zip(train_texts, train_labels) if y == 1]
    negatives = [rows[t] for t, y in zip(train_texts, train_labels) if y == 0]
    gaps = [
        abs(math.fsum(a) / len(a) - math.fsum(b) / len(b))
        for a, b in zip(zip(*positives), zip(*negatives))
    ]
    best = sorted(sorted(range(len(gaps)), key=lambda i: -gaps[i])[:k])
    probe = LogisticRegression(max_iter=1000)
    x = np.array([[rows[t][i] for i in best] for t in train_texts], dtype=np.float32)
    probe.fit(x, list(train_labels))
    correct: list[bool] = []
    for text, label in zip(test_texts, test_labels):
        asked = np.array([[test_rows[text][i] for i in best]], dtype=np.float32)
        correct.append(int(probe.predict(asked)[0]) == label)
    return correct


def random_text_features(
    x: torch.Tensor, directions: torch.Tensor, centre: torch.Tensor, l0: int
) -> list[float]:
    """Mean over the tokens that are not all 0 of the l0 largest positive projections."""
    sums = [0.0] * directions.shape[1]
    n = 0
    for token in x:
        if not bool(token.any()):
            continue
        n += 1
        values = ((token - centre)[:, None] * directions).sum(0).tolist()
        for i in sorted(range(len(values)), key=lambda i: -values[i])[:l0]:
            sums[i] += max(0.0, values[i])
    return [value / n for value in sums]


def macro(sets: Sequence[dict[str, Sequence[bool]]]) -> float:
    """Mean over sets of the mean over classes of the share that is right."""
    means = [
        math.fsum(sum(right) / len(right) for right in by_class.values())
        / len(by_class)
        for by_class in sets
    ]
    return math.fsum(means) / len(means)
