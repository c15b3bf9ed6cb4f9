"""Statistics of steering by plain loops over trials and latents, and by a GEE."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats


def cluster_robust(
    success: Any, latent: Any, predictors: dict[str, Any]
) -> pd.DataFrame:
    """Newton's method and a sandwich, trial by trial; one row a coefficient."""
    rows = [np.array([1.0, *row]) for row in zip(*predictors.values(), strict=True)]
    width, n, clusters = len(rows[0]), len(rows), sorted(set(latent))
    beta = np.zeros(width)
    for _ in range(50):
        score, information = np.zeros(width), np.zeros((width, width))
        for x, won in zip(rows, success, strict=True):
            chance = 1 / (1 + math.exp(-float(x @ beta)))
            score += (won - chance) * x
            information += chance * (1 - chance) * np.outer(x, x)
        beta += np.linalg.solve(information, score)
    meat = np.zeros((width, width))
    for cluster in clusters:
        own = np.zeros(width)
        for x, won, of in zip(rows, success, latent, strict=True):
            if of == cluster:
                own += (won - 1 / (1 + math.exp(-float(x @ beta)))) * x
        meat += np.outer(own, own)
    inverse = np.linalg.inv(information)
    few = len(clusters) / (len(clusters) - 1) * (n - 1) / (n - width)
    error = np.sqrt(np.diag(few * inverse @ meat @ inverse))
    freedom = len(clusters) - 1
    half = stats.t.ppf(0.975, freedom) * error
    return pd.DataFrame(
        {
            "value": beta,
            "se": np.sqrt(np.diag(inverse)),
            "se_clustered": error,
            "low": beta - half,
            "high": beta + half,
            "p_value": 2 * stats.t.sf(np.abs(beta / error), freedom),
        },
        index=pd.Index(["intercept", *predictors]),
    )


def gee(success: Any, latent: Any, predictors: dict[str, Any]) -> tuple[Any, Any]:
    """Coefficients and robust errors of a GEE with independent working correlation."""
    design = sm.add_constant(np.column_stack(list(predictors.values())))
    fit: Any = sm.GEE(
        np.asarray(success, dtype=float),
        design,
        groups=np.asarray(latent),
        family=sm.families.Binomial(),
        cov_struct=sm.cov_struct.Independence(),
    ).fit()
    return fit.params, fit.bse


def permutation_p(
    a: list[tuple[int, int]], b: list[tuple[int, int]], n: int, seed: int
) -> float:
    """P-value from (successes, trials) of each latent, one permutation at a time."""
    rows = [*a, *b]
    generator = np.random.default_rng(seed)

    def distance(order: Any) -> float:
        first, second = order[: len(a)], order[len(a) :]
        rates = [
            sum(rows[i][0] for i in part) / sum(rows[i][1] for i in part)
            for part in (first, second)
        ]
        return abs(rates[0] - rates[1])

    observed = distance(list(range(len(rows))))
    extreme = sum(
        distance(generator.permutation(len(rows))) >= observed - 1e-12 for _ in range(n)
    )
    return (1 + extreme) / (1 + n)


def bootstrap_rates(
    rows: list[tuple[int, int]], n: int, seed: int
) -> tuple[float, float]:
    """95 % percentile interval of the success rate, one resample of latents at a time."""
    generator = np.random.default_rng(seed)
    rates: list[float] = []
    for _ in range(n):
        drawn = [rows[i] for i in generator.integers(len(rows), size=len(rows))]
        rates.append(sum(k for k, _ in drawn) / sum(m for _, m in drawn))
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)
