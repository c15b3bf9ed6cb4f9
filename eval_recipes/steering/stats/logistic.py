"""Logistic regression with standard errors that know which trials share a latent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.special import expit
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
"""Robust over plain variance, below which a robust one is rounding."""


@dataclass(frozen=True)
class Coefficient:
    """One coefficient, in log odds for one unit of its predictor."""

    name: str
    value: float
    se: float
    """As if all trials were independent: what is usually published."""
    se_clustered: float
    """Robust, clustered by latent."""
    low: float
    high: float
    """95 % interval from ``se_clustered`` and Student's t on latents - 1 degrees of freedom."""
    p_value: float
    """Two-sided, that the coefficient is 0; from the same."""


@dataclass(frozen=True)
class LogisticFit:
    """
    A fit, or why there is none.

    Attributes:
        coefficients: by name, ``intercept`` first; empty if there is no fit.
        n_trials: outcomes.
        n_latents: clusters.
        reason: why there is no fit.
    """

    coefficients: dict[str, Coefficient]
    n_trials: int
    n_latents: int
    reason: str | None = None

    def interval(self, name: str) -> Interval | None:
        """Return a coefficient with its clustered interval; None if there is no fit."""
        found = self.coefficients.get(name)
        if found is None:
            return None
        return Interval(found.value, found.low, found.high, self.n_latents)


def fit_logistic(
    trials: Trials, predictors: Mapping[str, ArrayLike], *, level: float = 0.95
) -> LogisticFit:
    """
    Fit log odds of success = intercept + sum of coefficient * predictor.

    Maximum likelihood by Newton's method. Standard errors twice: from the information
    matrix H^-1, and the sandwich H^-1 (sum_c s_c s_c') H^-1 with s_c the score of latent c,
    times C / (C - 1) * (n - 1) / (n - p) (Liang & Zeger 1986 with the usual correction; the
    same as statsmodels' ``cov_type="cluster"`` and as a GEE with independent working
    correlation but for the correction).

    Args:
        trials: outcomes and their latents.
        predictors: values by name, shape (n,) each, finite.
        level: coverage of the intervals.

    Returns:
        The fit. Without variation in the outcome, with separation (found exactly, by a
        linear programme), with collinear predictors, without convergence or where the
        clustered variance vanishes it has no coefficients and a reason.

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
    scaled = (design - centre) / scale
    if np.linalg.matrix_rank(scaled) < scaled.shape[1]:
        return none(CONSTANT)
    if trials.n_latents <= scaled.shape[1]:
        return none(FEW_LATENTS)
    outcome = trials.success.astype(np.float64)
    if is_separated(scaled, trials.success):
        return none(SEPARATED)
    estimate = _newton(scaled, outcome)
    if estimate is None:
        return none(NOT_CONVERGED)
    beta, information = estimate
    inverse = np.linalg.inv(information)
    sandwich = inverse @ _meat(scaled, outcome, beta, trials) @ inverse
    back = _back(centre, scale)
    beta, plain, robust = back @ beta, back @ inverse @ back.T, back @ sandwich @ back.T
    usable = np.diag(robust) > _LEAST_VARIANCE * np.diag(plain)
    if not (np.isfinite(robust).all() and usable.all()):
        return none(NO_CLUSTERED_ERROR)
    freedom = trials.n_latents - 1
    quantile = float(student_t.ppf((1 + level) / 2, freedom))
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


def is_separated(design: Array, success: NDArray[np.bool_]) -> bool:
    """
    Return whether some direction separates the outcomes, completely or but for ties.

    Then the maximum likelihood estimate does not exist (Albert & Anderson 1984). Solved as
    max sum_i m_i over -1 <= b <= 1 with margins m_i = +-x_i'b >= 0, positive if separated.

    Args:
        design: shape (n, p), of full rank, with the intercept.
        success: outcomes, shape (n,).
    """
    signed = design * np.where(success, 1.0, -1.0)[:, None]
    found = linprog(
        -signed.sum(0),
        A_ub=-signed,
        b_ub=np.zeros(len(signed)),
        bounds=[(-1, 1)] * design.shape[1],
    )
    return bool(-found.fun > 1e-7)


def _newton(design: Array, outcome: Array) -> tuple[Array, Array] | None:
    """Return the maximum likelihood estimate and the information there; None if it fails."""
    beta = np.zeros(design.shape[1])
    for _ in range(MAX_STEPS):
        chance = expit(design @ beta)
        information = (design * (chance * (1 - chance))[:, None]).T @ design
        try:
            step = np.linalg.solve(information, design.T @ (outcome - chance))
        except np.linalg.LinAlgError:
            return None
        # a step too long would leave the region in which Newton's method converges
        step *= min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-300))
        beta = beta + step
        if float(np.abs(step).max()) < TOLERANCE:
            break
    else:
        return None
    chance = expit(design @ beta)
    return beta, (design * (chance * (1 - chance))[:, None]).T @ design


def _meat(design: Array, outcome: Array, beta: Array, trials: Trials) -> Array:
    """Return the corrected sum over latents of the outer products of their scores."""
    scores = design * (outcome - expit(design @ beta))[:, None]
    by_latent = np.zeros((trials.n_latents, design.shape[1]))
    np.add.at(by_latent, trials.latent, scores)
    clusters, (n, width) = trials.n_latents, design.shape
    correction = clusters / (clusters - 1) * (n - 1) / (n - width)
    return correction * by_latent.T @ by_latent


def _back(centre: Array, scale: Array) -> Array:
    """Return the matrix from coefficients of scaled predictors to those of the given ones."""
    back = np.diag(1 / scale)
    back[0] = -centre / scale
    back[0, 0] = 1.0
    return back
