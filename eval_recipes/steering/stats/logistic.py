"""Logistic regression with standard errors clustered by latent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.stats import t as student_t

from eval_recipes.statistics.interval import Interval
from eval_recipes.steering.stats.rates import Array, Trials

MAX_STEPS = 100
TOLERANCE = 1e-10
SEPARATED = (
    "the outcome is separated: a combination of the predictors tells successes from "
    "failures, so the likelihood has no maximum"
)
CONSTANT = "the predictors do not vary independently of each other"
FEW_LATENTS = "there are not more latents than coefficients"
NOT_CONVERGED = f"the fit did not converge in {MAX_STEPS} steps"
NO_CLUSTERED_ERROR = "the scores of the latents cancel, so the clustered standard error is 0 or no number"

_LEAST_VARIANCE = 1e-10
"""Robust over plain variance; below this ratio, the robust variance is rounding error."""


@dataclass(frozen=True)
class Coefficient:
    """One coefficient, in log odds for one unit of its predictor."""

    name: str
    value: float
    se: float
    """As if all trials were independent: the error that is usually published."""
    se_clustered: float
    """Robust, clustered by latent."""
    low: float
    high: float
    """95 % interval from ``se_clustered`` and Student's t on latents - 1 degrees of freedom."""
    p_value: float
    """Two-sided test that the coefficient is 0, from the same error and distribution."""


@dataclass(frozen=True)
class LogisticFit:
    """A fit, or the reason why there is none."""

    coefficients: dict[str, Coefficient]
    """By name, ``intercept`` first; empty if there is no fit."""
    n_trials: int
    n_latents: int
    """Clusters."""
    reason: str | None = None
    """Why there is no fit."""

    def interval(self, name: str) -> Interval | None:
        """Return a coefficient with its clustered interval; None if there is no fit."""
        found = self.coefficients.get(name)
        if found is None:
            return None
        return Interval(found.value, found.low, found.high, self.n_latents)


def fit_logistic(trials: Trials, predictors: Mapping[str, ArrayLike]) -> LogisticFit:
    """
    Fit log odds of success = intercept + sum of coefficient * predictor.

    statsmodels computes maximum likelihood and both standard errors: from the information
    matrix, and clustered by latent (Liang & Zeger 1986 with the usual correction for few
    clusters).

    Predictors have shape (n,) each, and are finite.

    Returns:
        The fit. It has no coefficients but a reason if the outcome does not vary or is
        separated, the predictors are collinear, the fit does not converge, or the clustered
        variance vanishes.

    Raises:
        ValueError: if a predictor has another length or is not finite.
    """
    n = trials.success.size
    columns = [np.ones(n), *(np.asarray(v, np.float64) for v in predictors.values())]
    if any(column.shape != (n,) for column in columns):
        raise ValueError(f"expected predictors of shape ({n},)")
    design = np.stack(columns, axis=1)
    if not np.isfinite(design).all():
        raise ValueError("expected finite predictors")

    def none(reason: str) -> LogisticFit:
        return LogisticFit({}, n, trials.n_latents, reason)

    if trials.no_variation:
        return none(trials.no_variation)
    # so that neither the steps nor the rank depend on the predictors' units
    centre = design.mean(0) * (np.arange(design.shape[1]) > 0)
    scale = np.where(design.std(0) > 0, design.std(0), 1.0)
    found = _fit_scaled(trials, (design - centre) / scale)
    if isinstance(found, str):
        return none(found)
    back = _back(centre, scale)
    beta = back @ found.params
    plain = back @ found.normalized_cov_params @ back.T
    robust = back @ found.cov_params() @ back.T
    usable = np.diag(robust) > _LEAST_VARIANCE * np.diag(plain)
    if not (np.isfinite(robust).all() and usable.all()):
        return none(NO_CLUSTERED_ERROR)
    freedom = trials.n_latents - 1
    quantile = float(student_t.ppf(0.975, freedom))
    fitted: dict[str, Coefficient] = {}
    for i, name in enumerate(["intercept", *predictors]):
        value, error = float(beta[i]), float(np.sqrt(robust[i, i]))
        fitted[name] = Coefficient(
            name=name,
            value=value,
            se=float(np.sqrt(plain[i, i])),
            se_clustered=error,
            low=value - quantile * error,
            high=value + quantile * error,
            p_value=float(2 * student_t.sf(abs(value) / error, freedom)),
        )
    return LogisticFit(fitted, n, trials.n_latents)


def _fit_scaled(trials: Trials, design: Array) -> Any:
    """Return the results of statsmodels, or why there are none."""
    from statsmodels.discrete.discrete_model import Logit

    if np.linalg.matrix_rank(design) < design.shape[1]:
        return CONSTANT
    if trials.n_latents <= design.shape[1]:
        return FEW_LATENTS
    if is_separated(design, trials.success):
        return SEPARATED
    try:
        found: Any = Logit(trials.success.astype(np.float64), design).fit(
            maxiter=MAX_STEPS,
            tol=TOLERANCE,
            disp=False,
            warn_convergence=False,
            cov_type="cluster",
            cov_kwds={"groups": trials.latent},
        )
    except np.linalg.LinAlgError:
        return NOT_CONVERGED
    return found if found.mle_retvals["converged"] else NOT_CONVERGED


def is_separated(design: Array, success: NDArray[np.bool_]) -> bool:
    """
    Return whether some direction separates the outcomes, completely or but for ties.

    Then the maximum likelihood estimate does not exist (Albert & Anderson 1984). Solved as
    max sum_i m_i over -1 <= b <= 1 with margins m_i = +-x_i'b >= 0, positive if separated. The
    design, shape (n, p), has full rank and the intercept.
    """
    signed = design * np.where(success, 1.0, -1.0)[:, None]
    found = linprog(
        -signed.sum(0),
        A_ub=-signed,
        b_ub=np.zeros(len(signed)),
        bounds=[(-1, 1)] * design.shape[1],
    )
    return bool(-found.fun > 1e-7)


def _back(centre: Array, scale: Array) -> Array:
    """Return the matrix that maps coefficients of scaled to coefficients of given predictors."""
    back = np.diag(1 / scale)
    back[0] = -centre / scale
    back[0, 0] = 1.0
    return back
