"""Does a score of a latent go with its success? Correlations, slopes, interactions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from eval_recipes.statistics.interval import Interval, percentile_interval
from eval_recipes.steering.stats.group_tests import joined_trials
from eval_recipes.steering.stats.logistic import LogisticFit, fit_logistic
from eval_recipes.steering.stats.rates import (
    N_RESAMPLES,
    ONE_LATENT,
    Array,
    Trials,
    over_latents,
)

NO_SPREAD = "the score does not vary"
NO_RATE_SPREAD = "the success rate of latents does not vary"


@dataclass(frozen=True)
class Figure:
    """A figure with its interval, or why there is none."""

    interval: Interval | None
    reason: str | None = None


@dataclass(frozen=True)
class Association:
    """How a latent's score goes with the success of steering by it."""

    spearman: Figure
    """Rank correlation of a latent's score and its success rate; over latents."""
    point_biserial: Figure
    """Pearson correlation of score and success, over trials; interval over latents."""
    slope: LogisticFit
    """Log odds of success for one unit of ``score``."""


def associate(trials: Trials, scores: ArrayLike, *, seed: int) -> Association:
    """
    Relate the score of each latent to its trials.

    Args:
        trials: outcomes.
        scores: one a latent, shape (n_latents,), finite; in the order of the trials' latents.
        seed: of the resamples.
    """
    score = _checked(trials, scores)
    return Association(
        spearman=spearman(trials, score, seed=seed),
        point_biserial=point_biserial(trials, score, seed=seed),
        slope=fit_logistic(trials, {"score": score[trials.latent]}),
    )


def spearman(trials: Trials, scores: ArrayLike, *, seed: int) -> Figure:
    """
    Return Spearman's rho of score and success rate over latents, ties ranked by their mean.

    Interval: bootstrap over latents, ranks taken anew in each resample.
    """
    score = _checked(trials, scores)
    reason = _undefined(trials, score)
    if reason is not None:
        return Figure(None, reason)
    wins, counts = trials.by_latent()
    rate = wins / counts
    if np.ptp(rate) == 0:
        return Figure(None, NO_RATE_SPREAD)
    n = trials.n_latents
    rows = np.random.default_rng(seed).integers(n, size=(N_RESAMPLES, n))
    value = float(_pearson_rows(rankdata(score)[None], rankdata(rate)[None])[0])
    draws = _pearson_rows(rankdata(score[rows], axis=1), rankdata(rate[rows], axis=1))
    return Figure(percentile_interval(value, draws, n))


def point_biserial(trials: Trials, scores: ArrayLike, *, seed: int) -> Figure:
    """Return the correlation of score and success over trials, interval over latents."""
    score = _checked(trials, scores)
    reason = _undefined(trials, score)
    if reason is not None:
        return Figure(None, reason)
    wins, counts = trials.by_latent()
    # the correlation does not change, its rounding does
    centred = score - score.mean()

    def correlation(w: Array) -> Array:
        n, x, y = w @ counts, w @ (counts * centred), w @ wins
        squares = w @ (counts * centred**2) - x**2 / n
        return (w @ (wins * centred) - x * y / n) / np.sqrt(squares * (y - y**2 / n))

    return Figure(over_latents(correlation, trials.n_latents, seed=seed))


def interaction(
    a: Trials, scores_a: ArrayLike, b: Trials, scores_b: ArrayLike
) -> LogisticFit:
    """
    Test whether the slope of success on score differs between two groups.

    Log odds = intercept + ``score`` + ``group`` + ``score:group``, group 1 for a and 0 for b;
    the last coefficient is the slope of a minus that of b. Errors robust within latents.
    """
    joined = joined_trials(a, b)
    score = np.concatenate([_checked(a, scores_a), _checked(b, scores_b)])[
        joined.latent
    ]
    group = (np.arange(joined.success.size) < a.success.size).astype(float)
    return fit_logistic(
        joined, {"score": score, "group": group, "score:group": score * group}
    )


@dataclass(frozen=True)
class StabilityLink:
    """Does the stability of a latent across seeds predict that steering by it succeeds?"""

    alone: LogisticFit
    """On ``stability``."""
    adjusted: LogisticFit | None
    """On ``stability`` and ``score``, for latents that have both; None without scores."""
    spearman: Figure
    """Of stability and success rate, over latents."""


def stability_link(
    trials: Trials,
    stability: ArrayLike,
    scores: ArrayLike | None,
    *,
    seed: int,
) -> StabilityLink:
    """
    Relate each latent's stability, and its score if there is one, to its trials.

    Args:
        trials: outcomes.
        stability: share of the other seeds in which a latent is shared, shape (n_latents,).
        scores: auto-interp scores, shape (n_latents,); NaN for a latent without one.
        seed: of the resamples.
    """
    stable = _checked(trials, stability)
    adjusted = None
    if scores is not None:
        given = np.asarray(scores, dtype=np.float64)
        part, kept = restricted(trials, np.isfinite(given))
        adjusted = fit_logistic(
            part,
            {
                "stability": stable[kept][part.latent],
                "score": given[kept][part.latent],
            },
        )
    return StabilityLink(
        alone=fit_logistic(trials, {"stability": stable[trials.latent]}),
        adjusted=adjusted,
        spearman=spearman(trials, stable, seed=seed),
    )


def restricted(trials: Trials, keep: ArrayLike) -> tuple[Trials, NDArray[np.intp]]:
    """Return the trials of the latents for which ``keep`` is true, and these latents."""
    mask = np.asarray(keep, dtype=np.bool_)
    rows = mask[trials.latent]
    renumbered = np.cumsum(mask) - 1
    part = Trials(trials.success[rows], renumbered[trials.latent[rows]])
    return part, np.flatnonzero(mask)


def _undefined(trials: Trials, score: Array) -> str | None:
    if trials.no_variation:
        return trials.no_variation
    if trials.n_latents == 1:
        return ONE_LATENT
    return NO_SPREAD if np.ptp(score) == 0 else None


def _checked(trials: Trials, scores: ArrayLike) -> Array:
    score = np.asarray(scores, dtype=np.float64)
    if score.shape != (trials.n_latents,):
        raise ValueError(f"{score.shape} scores for {trials.n_latents} latents")
    if not np.isfinite(score).all():
        raise ValueError("expected finite scores")
    return score


def _pearson_rows(a: Array, b: Array) -> Array:
    """Return Pearson's correlation of each row of ``a`` and ``b``; NaN without variation."""
    x, y = (v - v.mean(1, keepdims=True) for v in (a, b))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))
