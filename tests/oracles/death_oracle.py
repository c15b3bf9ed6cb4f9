"""Outlier severity, its predictions and causes of death, by plain loops and draws."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np


def layer_norm(rows: list[list[float]]) -> list[list[float]]:
    out = []
    for row in rows:
        mean = sum(row) / len(row)
        variance = sum((v - mean) ** 2 for v in row) / len(row)
        out.append([(v - mean) / math.sqrt(variance + 1e-5) for v in row])
    return out


def gamma(rows: list[list[float]]) -> float:
    """||mu|| / ||sigma|| over rows, dimension by dimension."""
    mu, sigma = 0.0, 0.0
    for column in zip(*rows):
        mean = sum(column) / len(column)
        mu += mean**2
        sigma += sum((v - mean) ** 2 for v in column) / len(column)
    return math.sqrt(mu / sigma)


def effective_rank(rows: list[list[float]]) -> float:
    """By singular values of the centred rows, as the published code has it."""
    x = np.array(rows)
    values = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    total = values.sum()
    entropy = 0.0
    for value in values:
        share = value / total
        if share > 1e-12:
            entropy -= share * math.log(share)
    return math.exp(entropy)


def predicted(gamma: float, n: int, k: int | None = None, d_sae: int = 1) -> float:
    normal = NormalDist()
    c = normal.inv_cdf(1 - 1 / n)
    t = 0.0 if k is None else normal.inv_cdf(1 - k / d_sae)
    return normal.cdf((0.0 if k is None else t) - c / gamma)


def predicted_with_spread(gamma: float, n: int, k: int, d_sae: int) -> float:
    normal = NormalDist()
    level = normal.inv_cdf(1 - k / d_sae) * math.sqrt(1 + 1 / gamma**2)
    return normal.cdf(level - normal.inv_cdf(1 - 1 / n) / gamma)


def born_dead_share(gamma: float, *, tokens: int, latents: int, seed: int) -> float:
    """
    Share of random latents that are never positive on random tokens, by drawing.

    A latent sees z ||mu|| + e ||sigma|| on each token, z normal once, e normal anew.
    """
    generator = np.random.default_rng(seed)
    dead = 0
    for _ in range(latents):
        offset = gamma * generator.standard_normal()
        if (offset + generator.standard_normal(tokens)).max() <= 0:
            dead += 1
    return dead / latents


def born_dead_topk_share(
    gamma: float, *, k: int, d_sae: int, d_in: int, tokens: int, seed: int
) -> float:
    """Share of random rows never among the k largest on Gaussian tokens with a mean."""
    generator = np.random.default_rng(seed)
    mean = generator.standard_normal(d_in)
    mean *= gamma * math.sqrt(d_in) / np.linalg.norm(mean)
    rows = generator.standard_normal((d_in, d_sae))
    rows /= np.linalg.norm(rows, axis=0)
    alive = np.zeros(d_sae, dtype=bool)
    for _ in range(tokens):
        values = (mean + generator.standard_normal(d_in)) @ rows
        best = np.argsort(-values)[:k]
        alive[best[values[best] > 0]] = True
    return float((~alive).mean())


def causes(
    pre: np.ndarray, k: int | None, keep: np.ndarray
) -> tuple[list[str | None], list[float | None]]:
    """
    Pathway of each latent and the gap of those never selected.

    Args:
        pre: [contexts, tokens, latents].
        k: selected latents, None for all positive ones.
        keep: [contexts, tokens].
    """
    contexts, tokens, latents = pre.shape
    pathways: list[str | None] = []
    gaps: list[float | None] = []
    for j in range(latents):
        fires, positive, gap = False, False, math.inf
        for c in range(contexts):
            for t in range(tokens):
                if not keep[c, t] or pre[c, t, j] <= 0:
                    continue
                positive = True
                bar = 0.0 if k is None else sorted(pre[c, t], reverse=True)[k - 1]
                if k is None or pre[c, t, j] >= bar:
                    fires = True
                gap = min(gap, bar - pre[c, t, j])
        pathways.append(None if fires else "selection" if positive else "relu")
        gaps.append(gap if positive and not fires else None)
    return pathways, gaps
