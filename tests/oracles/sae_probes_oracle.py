"""Slow, independent versions of the sae_probes recipe's own figures: plain Python."""

from __future__ import annotations

import random


def auc(labels: list[bool], scores: list[float]) -> float:
    """Share of pairs (positive, negative) that are in order; ties count half."""
    total = 0.0
    pairs = 0
    for label, score in zip(labels, scores, strict=True):
        for other, lower in zip(labels, scores, strict=True):
            if label and not other:
                pairs += 1
                total += 1.0 if score > lower else 0.5 if score == lower else 0.0
    return total / pairs


def accuracy(labels: list[bool], predicted: list[bool]) -> float:
    return sum(a == b for a, b in zip(labels, predicted, strict=True)) / len(labels)


def accuracy_interval(
    sets: list[tuple[list[bool], list[bool]]], draws: int = 4000
) -> tuple[float, float]:
    """95 % interval of the mean over sets, texts drawn one by one within each set."""
    generator = random.Random(3)
    right = [[a == b for a, b in zip(*pair, strict=True)] for pair in sets]
    means = sorted(
        sum(sum(generator.choices(r, k=len(r))) / len(r) for r in right) / len(right)
        for _ in range(draws)
    )
    return means[int(0.025 * draws)], means[int(0.975 * draws)]


def rows_also_in_train(texts: list[str], train: list[int], test: list[int]) -> int:
    return sum(any(texts[row] == texts[other] for other in train) for row in test)
