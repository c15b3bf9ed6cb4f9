"""Statistics of steering by statsmodels, and by plain loops over latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats


def cluster_robust(
    success: Any, latent: Any, predictors: dict[str, Any]
) -> pd.DataFrame:
    """Statsmodels' Logit with clustered errors and Student's t, one row a coefficient."""
    design = sm.add_constant(np.column_stack(list(predictors.values())))
    outcome = np.asarray(success, dtype=float)
    plain: Any = sm.Logit(outcome, design).fit(disp=0, method="newton", maxiter=200)
    robust: Any = sm.Logit(outcome, design).fit(
        disp=0,
        method="newton",
        maxiter=200,
        cov_type="cluster",
        cov_kwds={"groups": np.asarray(latent)},
        use_t=True,
    )
    # statsmodels keeps n - p degrees of freedom for Student's t; the clusters decide here
    freedom = len(set(latent)) - 1
    half = stats.t.ppf(0.975, freedom) * robust.bse
    return pd.DataFrame(
        {
            "value": robust.params,
            "se": plain.bse,
            "se_clustered": robust.bse,
            "low": robust.params - half,
            "high": robust.params + half,
            "p_value": 2 * stats.t.sf(np.abs(robust.params / robust.bse), freedom),
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
