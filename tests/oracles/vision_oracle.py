"""Vision metrics in plain Python: every pair, every image, one number at a time."""

from __future__ import annotations

import math
from collections import Counter

Rows = list[list[float]]


def cosine(a: list[float], b: list[float]) -> float:
    """Cosine of two vectors; 0 if one of them is 0."""
    lengths = math.hypot(*a) * math.hypot(*b)
    return math.fsum(x * y for x, y in zip(a, b)) / lengths if lengths else 0.0


def monosemanticity(acts: list[float], embeddings: Rows) -> float:
    """Score of one latent from its activations scaled to [0, 1]; NaN without a pair."""
    low, high = min(acts), max(acts)
    if high == low:
        return math.nan
    scaled = [(act - low) / (high - low) for act in acts]
    return weighted_cosine(scaled, embeddings)


def weighted_cosine(acts: list[float], embeddings: Rows) -> float:
    """``sum_{n<m} a_n a_m cos(e_n, e_m) / sum_{n<m} a_n a_m``, NaN for 0 / 0."""
    above, below = [], []
    for n in range(len(acts)):
        for m in range(n):
            weight = acts[n] * acts[m]
            above.append(weight * cosine(embeddings[n], embeddings[m]))
            below.append(weight)
    weights = math.fsum(below)
    return math.fsum(above) / weights if weights else math.nan


def mean_cosine(embeddings: Rows) -> float:
    """Mean cosine over all pairs of different images."""
    return weighted_cosine([1.0] * len(embeddings), embeddings)


def mono_loss(z: Rows, inputs: Rows) -> float:
    """``1 - mean_j MS_j`` over the latents with a pair of rows on which they fire."""
    scores = [weighted_cosine([row[j] for row in z], inputs) for j in range(len(z[0]))]
    found = [score for score in scores if not math.isnan(score)]
    return 1 - math.fsum(found) / len(found)


def purity(acts: list[float], labels: list[int]) -> tuple[float, float]:
    """Binary and weighted purity of one latent; NaN if it never fires."""
    fired = [label for act, label in zip(acts, labels) if act != 0]
    if not fired:
        return math.nan, math.nan
    best = _most_common(fired)
    mass = math.fsum(acts)
    on_best = math.fsum(act for act, label in zip(acts, labels) if label == best)
    return fired.count(best) / len(fired), on_best / mass


def held_out_purity(acts: list[float], labels: list[int]) -> float:
    """Purity of a class that the images of the other parity chose."""
    halves = [
        [
            label
            for place, (act, label) in enumerate(zip(acts, labels))
            if act != 0 and place % 2 == parity
        ]
        for parity in (0, 1)
    ]
    if not all(halves):
        return math.nan
    hits = halves[1].count(_most_common(halves[0])) + halves[0].count(
        _most_common(halves[1])
    )
    return hits / (len(halves[0]) + len(halves[1]))


def _most_common(labels: list[int]) -> int:
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


def r2(x: Rows, x_hat: Rows) -> tuple[float, float]:
    """R2 about the mean vector, and the mean of each dimension's own."""
    columns = list(zip(zip(*x), zip(*x_hat)))
    residual = [math.fsum((a - b) ** 2 for a, b in zip(*pair)) for pair in columns]
    spread = []
    for values, _ in columns:
        mean = math.fsum(values) / len(values)
        spread.append(math.fsum((value - mean) ** 2 for value in values))
    each = [1 - r / s for r, s in zip(residual, spread) if s > 0]
    return 1 - math.fsum(residual) / math.fsum(spread), math.fsum(each) / len(each)


def nmse(x: Rows, x_hat: Rows) -> float:
    """Mean over the rows of squared error over squared length."""
    each = [
        math.fsum((a - b) ** 2 for a, b in zip(row, made))
        / math.fsum(a * a for a in row)
        for row, made in zip(x, x_hat)
    ]
    return math.fsum(each) / len(each)


def r2_about_a_scalar(x: Rows, x_hat: Rows) -> float:
    """R2 about the mean of all entries, one number: overcomplete's ``r2_score``."""
    entries = [value for row in x for value in row]
    mean = math.fsum(entries) / len(entries)
    residual = math.fsum((a - b) ** 2 for p, q in zip(x, x_hat) for a, b in zip(p, q))
    return 1 - residual / math.fsum((value - mean) ** 2 for value in entries)


def fvu_with_summed_means(x: Rows, x_hat: Rows) -> float:
    """Residual over ``E ||x||^2 - (sum_d mean_d)^2``: visaebench's FVU."""
    n = len(x)
    residual = math.fsum((a - b) ** 2 for p, q in zip(x, x_hat) for a, b in zip(p, q))
    means = [math.fsum(column) / n for column in zip(*x)]
    square = math.fsum(value * value for row in x for value in row)
    return residual / (square - n * math.fsum(means) ** 2)
