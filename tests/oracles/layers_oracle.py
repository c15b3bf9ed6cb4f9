"""Slow, plain versions of the scores of layers."""

from __future__ import annotations

from itertools import product

import numpy as np

from eval_recipes.layers.scores import TextHalves
from eval_recipes.statistics.interval import Array


def auroc_by_pairs(a: list[float], b: list[float]) -> float:
    """P(x > y) + P(x = y) / 2, by counting every pair."""
    wins = [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in product(a, b)]
    return sum(wins) / len(wins)


def layer_score(
    shares: Array, parts: TextHalves, *, n_latents: int, both: bool, row: int = 0
) -> float:
    """Score of the labels in ``row``: choose by one half, measure on the other, take the mean."""
    scores: list[float] = []
    for choosing, measuring in (parts, parts[::-1]):
        x, of_first = shares[choosing.texts], choosing.labels[row]
        y, measured = shares[measuring.texts], measuring.labels[row]
        table: list[tuple[float, int, float]] = []
        for latent in range(shares.shape[1]):
            value = auroc_by_pairs(
                list(x[of_first, latent]), list(x[~of_first, latent])
            )
            strength = abs(value - 0.5) if both else value - 0.5
            table.append((-round(strength, 12), latent, value))
        for _, latent, value in sorted(table)[:n_latents]:
            other = auroc_by_pairs(
                list(y[measured, latent]), list(y[~measured, latent])
            )
            scores.append(1 - other if both and value < 0.5 else other)
    return float(np.mean(scores))


def share_in_span(change: Array, rows: Array) -> float:
    """Share of a matrix's energy whose columns lie in the span of ``rows``, by least squares."""
    fitted = rows.T @ np.linalg.lstsq(rows.T, change, rcond=None)[0]
    return float((fitted**2).sum() / (change**2).sum())
