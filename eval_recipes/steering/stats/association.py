"""Correlations and slopes of success on a score of the latent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from eval_recipes.statistics.interval import Interval, percentile_interval
from eval_recipes.steering.stats.logistic import LogisticFit, fit_logistic
from eval_recipes.steering.stats.rates import (
    N_RESAMPLES,
    ONE_LATENT,
    Array,
    Trials,
    joined_trials,
    over_latents,
    restricted,
)

NO_SPREAD = "the score does not vary"
NO_RATE_SPREAD = "the success rate of latents does not vary"


@dataclass(frozen=True)
class Figure:
    """A figure with its interval, or the reason why there is none."""

    interval: Interval | None
    reason: str | None = None


@dataclass(frozen=True)
class Association:
    """Association of a latent's score with the success of steering by the latent."""

    spearman: Figure
    """Rank correlation of a latent's score and its success rate; over latents."""
    point_biserial: Figure
    """Pearson correlation of score and success, over trials; interval over latents."""
    slope: LogisticFit
    """Log odds of success for one unit of ``score``."""


def associate(trials: Trials, scores: ArrayLike, *, seed: int) -> Association:
    """
    Relate the score of each latent to its trials.

    ``scores``, shape (n_latents,), are finite and in the order of the trials' latents; ``seed``
    is that of the resamples.
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
    value = float(_rank_correlation(score, rate))
    draws = _rank_correlation(score[rows], rate[rows])
    return Figure(percentile_interval(value, draws, n))


def _rank_correlation(x: Array, y: Array) -> Array:
    """Return Spearman's rho along the last axis; NaN without variation."""
    a, b = (rankdata(values, axis=-1) for values in (x, y))
    a, b = (ranks - ranks.mean(-1, keepdims=True) for ranks in (a, b))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))


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
    scores = np.concatenate([_checked(a, scores_a), _checked(b, scores_b)])
    score = scores[joined.latent]
    group = (np.arange(joined.success.size) < a.success.size).astype(float)
    return fit_logistic(
        joined, {"score": score, "group": group, "score:group": score * group}
    )


@dataclass(frozen=True)
class StabilityLink:
    """Association of a latent's stability across seeds with the success of steering."""

    alone: LogisticFit
    """On ``stability``."""
    adjusted: LogisticFit | None
    """On ``stability`` and ``score``, for latents that have both; None without scores."""
    spearman: Figure
    """Of stability and success rate, over latents."""


def stability_link(
    trials: Trials, stability: ArrayLike, scores: ArrayLike | None, *, seed: int
) -> StabilityLink:
    """
    Relate each latent's stability, and its score if there is one, to its trials.

    ``stability`` is the share of the other seeds that have a latent; ``scores`` are NaN for a
    latent without one. Both have shape (n_latents,).
    """
    stable = _checked(trials, stability)
    adjusted = None
    if scores is not None:
        given = np.asarray(scores, dtype=np.float64)
        kept = np.isfinite(given)
        part = restricted(trials, kept)
        predictors = {"stability": stable, "score": given}
        adjusted = fit_logistic(
            part, {name: x[kept][part.latent] for name, x in predictors.items()}
        )
    return StabilityLink(
        alone=fit_logistic(trials, {"stability": stable[trials.latent]}),
        adjusted=adjusted,
        spearman=spearman(trials, stable, seed=seed),
    )


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
