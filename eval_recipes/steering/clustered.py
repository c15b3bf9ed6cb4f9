"""Success rates of latents that were tried several times: intervals over latents."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval_recipes.statistics import Interval

Array = NDArray[np.float64]

N_RESAMPLES = 2000
NO_TRIALS = "there is no trial"
ONE_LATENT = "one latent has no spread"
NO_SUCCESS = "no trial succeeded, so the spread cannot be estimated"
ALL_SUCCESS = "every trial succeeded, so the spread cannot be estimated"
UNDEFINED = "the figure is undefined in more than 5 % of the resamples"

_LARGEST_UNDEFINED_SHARE = 0.05


@dataclass(frozen=True)
class Trials:
    """
    Outcomes, and the latent that each belongs to.

    Prompts of one latent are not independent: all that is drawn or permuted below is whole
    latents.
    """

    success: NDArray[np.bool_]
    """Shape (n,)."""

    latent: NDArray[np.int64]
    """Number of each outcome's latent, from 0 without gaps, shape (n,)."""

    @property
    def n_latents(self) -> int:
        """How many latents there are."""
        return int(self.latent.max()) + 1 if self.latent.size else 0

    def by_latent(self) -> tuple[Array, Array]:
        """Return (successes, trials) of each latent, each of shape (n_latents,)."""
        size = self.n_latents
        wins = np.bincount(
            self.latent, weights=self.success.astype(float), minlength=size
        ).astype(np.float64)
        return wins, np.bincount(self.latent, minlength=size).astype(np.float64)

    @property
    def no_variation(self) -> str | None:
        """Why a rate has no interval and no model a fit; None if it may have."""
        if not self.success.size:
            return NO_TRIALS
        if not self.success.any():
            return NO_SUCCESS
        return ALL_SUCCESS if self.success.all() else None


def make_trials(success: Sequence[bool], latents: Sequence[Hashable]) -> Trials:
    """
    Return trials from outcomes and the latents they belong to.

    Args:
        success: an outcome each.
        latents: ids, such as ``17`` or, with several SAEs, ``("k32/seed0", 17)``.

    Raises:
        ValueError: if there are not as many of the one as of the other.

    >>> make_trials([True, False, True], [5, 5, 9]).by_latent()[0].tolist()
    [1.0, 1.0]
    """
    if len(success) != len(latents):
        raise ValueError(f"{len(success)} outcomes for {len(latents)} latents")
    number = {latent: i for i, latent in enumerate(dict.fromkeys(latents))}
    return Trials(
        np.array(success, dtype=np.bool_),
        np.array([number[latent] for latent in latents], dtype=np.int64),
    )


def success_rate(
    trials: Trials, *, seed: int, n_resamples: int = N_RESAMPLES, level: float = 0.95
) -> Interval | None:
    """
    Return the share of trials that succeeded, with a bootstrap interval over latents.

    A resample draws latents with all their trials. ``n`` is the number of latents. None if
    there is no trial; no interval for one latent, or if all trials have one outcome.
    """
    if not trials.success.size:
        return None
    rate = float(trials.success.mean())
    reason = trials.no_variation or (ONE_LATENT if trials.n_latents == 1 else None)
    if reason:
        return Interval(rate, None, None, trials.n_latents, reason)
    wins, counts = trials.by_latent()
    return over_latents(
        lambda w: (w @ wins) / (w @ counts),
        trials.n_latents,
        seed=seed,
        n_resamples=n_resamples,
        level=level,
    )


def rate_difference(
    a: Trials, b: Trials, *, seed: int, n_resamples: int = N_RESAMPLES
) -> Interval | None:
    """
    Return the success rate of ``a`` minus that of ``b``, for different latents.

    Latents of each are drawn on their own; ``n`` is the number of both. None if one has no
    trial; no interval if neither has any spread.
    """
    if not (a.success.size and b.success.size):
        return None
    value = float(a.success.mean()) - float(b.success.mean())
    n = a.n_latents + b.n_latents
    reason = a.no_variation and b.no_variation
    if reason or min(a.n_latents, b.n_latents) == 1:
        return Interval(value, None, None, n, reason or ONE_LATENT)
    generators = np.random.default_rng(seed).spawn(2)
    draws = [
        _rates(trials, generator, n_resamples)
        for trials, generator in zip((a, b), generators, strict=True)
    ]
    low, high = np.quantile(draws[0] - draws[1], [0.025, 0.975])
    return Interval(value, float(low), float(high), n)


def paired_difference(
    steered: Trials, control: Trials, *, seed: int, n_resamples: int = N_RESAMPLES
) -> Interval | None:
    """
    Return the rate of ``steered`` minus that of ``control`` on the same latents.

    Latents are drawn with the trials of both. None if one has no trial.

    Raises:
        ValueError: if the latents are not the same.
    """
    if not (steered.success.size and control.success.size):
        return None
    if steered.n_latents != control.n_latents:
        raise ValueError(f"{steered.n_latents} and {control.n_latents} latents")
    value = float(steered.success.mean()) - float(control.success.mean())
    reason = steered.no_variation and control.no_variation
    if reason or steered.n_latents == 1:
        return Interval(value, None, None, steered.n_latents, reason or ONE_LATENT)
    (wins, counts), (theirs, their_counts) = steered.by_latent(), control.by_latent()
    return over_latents(
        lambda w: (w @ wins) / (w @ counts) - (w @ theirs) / (w @ their_counts),
        steered.n_latents,
        seed=seed,
        n_resamples=n_resamples,
    )


def over_latents(
    statistic: Callable[[Array], Array],
    n: int,
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """
    Return a statistic with its percentile bootstrap interval over ``n`` latents.

    Resamples in which it is not finite are left out; if they are more than 5 % there is no
    interval.

    Args:
        statistic: from weights, shape (resamples, n), to values, shape (resamples,).
        n: latents.
        seed: of the draws.
        n_resamples: bootstrap resamples.
        level: coverage.
    """
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=n_resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(np.ones((1, n)))[0])
        draws = statistic(weights.astype(np.float64))
    return interval_of(value, draws, n, level=level)


def interval_of(value: float, draws: Array, n: int, *, level: float = 0.95) -> Interval:
    """Return the percentile interval of resampled values, or why there is none."""
    usable = draws[np.isfinite(draws)]
    if usable.size < (1 - _LARGEST_UNDEFINED_SHARE) * draws.size:
        return Interval(value, None, None, n, UNDEFINED)
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n)


def _rates(trials: Trials, generator: np.random.Generator, n_resamples: int) -> Array:
    wins, counts = trials.by_latent()
    size = trials.n_latents
    weights = generator.multinomial(size, np.full(size, 1 / size), size=n_resamples)
    return (weights @ wins) / (weights @ counts)
