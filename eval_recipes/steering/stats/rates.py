"""Success rates of latents with several trials each, and intervals over latents."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval_recipes.statistics.interval import Interval, percentile_interval, unseen

Array = NDArray[np.float64]

N_RESAMPLES = 2000
NO_TRIALS = "there is no trial"
ONE_LATENT = "one latent has no spread"
NO_SUCCESS = "no trial succeeded, so the spread cannot be estimated"
ALL_SUCCESS = "every trial succeeded, so the spread cannot be estimated"


@dataclass(frozen=True)
class Trials:
    """
    Outcomes, and the latent of each.

    Prompts of one latent are not independent, so whole latents are resampled or permuted.
    """

    success: NDArray[np.bool_]
    """Shape (n,)."""
    latent: NDArray[np.int64]
    """Number of each outcome's latent, from 0 without gaps, shape (n,)."""

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return int(self.latent.max()) + 1 if self.latent.size else 0

    def by_latent(self) -> tuple[Array, Array]:
        """Return (successes, trials) of each latent, each of shape (n_latents,)."""
        won = self.latent[self.success]
        wins, counts = (
            np.bincount(latents, minlength=self.n_latents).astype(np.float64)
            for latents in (won, self.latent)
        )
        return wins, counts

    @property
    def no_variation(self) -> str | None:
        """Why a model has no fit and a correlation no value; None if it may have."""
        if not self.success.size:
            return NO_TRIALS
        if not self.success.any():
            return NO_SUCCESS
        return ALL_SUCCESS if self.success.all() else None


def make_trials(success: Sequence[bool], latents: Sequence[Hashable]) -> Trials:
    """
    Return trials from outcomes and an id per outcome, such as ``17`` or ``("k32/seed0", 17)``.

    Raises:
        ValueError: if the numbers of outcomes and latents differ.

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


def joined_trials(a: Trials, b: Trials) -> Trials:
    """Return the trials of both; no latent of one is a latent of the other."""
    return Trials(
        np.concatenate([a.success, b.success]),
        np.concatenate([a.latent, b.latent + a.n_latents]),
    )


def restricted(trials: Trials, keep: NDArray[np.bool_]) -> Trials:
    """Return the trials of the latents for which ``keep``, shape (n_latents,), is true."""
    rows = keep[trials.latent]
    return Trials(trials.success[rows], (np.cumsum(keep) - 1)[trials.latent[rows]])


def success_rate(
    trials: Trials, *, seed: int, n_resamples: int = N_RESAMPLES
) -> Interval | None:
    """
    Return the share of trials that succeeded, with a bootstrap interval over latents.

    A resample draws latents with all their trials. ``n`` is the number of latents. Resamples
    cannot move a rate of 0 or 1: its interval is what so many equal latents leave open
    (``interval.unseen``). None if there is no trial; no interval for one latent.
    """
    if not trials.success.size:
        return None
    if trials.no_variation and trials.n_latents > 1:
        rate = float(trials.success[0])
        below, above = unseen([(1.0, rate, 1.0, trials.n_latents)])
        return Interval(rate, rate - below, rate + above, trials.n_latents)
    success = trials.success.astype(np.float64)
    return cluster_mean(success, trials.latent, seed=seed, n_resamples=n_resamples)


def cluster_mean(
    values: Array,
    clusters: NDArray[np.int64],
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
) -> Interval:
    """
    Return the mean of values with a bootstrap interval over their clusters, such as latents.

    ``clusters`` numbers the clusters from 0 without gaps; a single cluster has no interval.
    """
    n = int(clusters.max()) + 1
    if n == 1:
        return Interval(float(values.mean()), None, None, 1, ONE_LATENT)
    total = np.bincount(clusters, weights=values, minlength=n)
    counts = np.bincount(clusters, minlength=n).astype(np.float64)
    return over_latents(
        lambda w: (w @ total) / (w @ counts), n, seed=seed, n_resamples=n_resamples
    )


def rate_difference(a: Trials, b: Trials, *, seed: int) -> Interval | None:
    """
    Return the success rate of ``a`` minus that of ``b``, for different latents.

    Latents of each are drawn on their own; ``n`` is the number of both. A rate of 0 or 1 widens
    the interval by what so many equal latents leave open. None if either has no trial; no
    interval if either has a single latent.
    """
    if not (a.success.size and b.success.size):
        return None
    value = float(a.success.mean()) - float(b.success.mean())
    n = a.n_latents + b.n_latents
    if min(a.n_latents, b.n_latents) == 1:
        return Interval(value, None, None, n, ONE_LATENT)
    draws: list[Array] = []
    generators = np.random.default_rng(seed).spawn(2)
    for trials, generator in zip((a, b), generators, strict=True):
        wins, counts = trials.by_latent()
        weights = _weights(trials.n_latents, generator, N_RESAMPLES)
        draws.append((weights @ wins) / (weights @ counts))
    return _widened(percentile_interval(value, draws[0] - draws[1], n), a, b)


def paired_difference(
    steered: Trials, control: Trials, *, seed: int
) -> Interval | None:
    """
    Return the rate of ``steered`` minus that of ``control`` on the same latents.

    Latents are drawn with the trials of both. If one side is all success or none, or if every
    latent has the same difference, the interval has what so many equal latents leave open.
    None if either has no trial.

    Raises:
        ValueError: if the latents differ.
    """
    if not (steered.success.size and control.success.size):
        return None
    if steered.n_latents != control.n_latents:
        raise ValueError(f"{steered.n_latents} and {control.n_latents} latents")
    value = float(steered.success.mean()) - float(control.success.mean())
    n = steered.n_latents
    if n == 1:
        return Interval(value, None, None, 1, ONE_LATENT)
    (wins, counts), (theirs, their_counts) = steered.by_latent(), control.by_latent()
    each = wins / counts - theirs / their_counts
    if np.ptp(each) < 1e-12:
        # differences lie in [-1, 1]
        below, above = unseen([(1.0, value + 1.0, 2.0, n)])
        return Interval(value, value - below, value + above, n)
    found = over_latents(
        lambda w: (w @ wins) / (w @ counts) - (w @ theirs) / (w @ their_counts),
        n,
        seed=seed,
    )
    return _widened(found, steered, control)


def over_latents(
    statistic: Callable[[Array], Array],
    n: int,
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
) -> Interval:
    """
    Return a statistic with its percentile bootstrap interval over ``n`` latents.

    ``statistic`` maps weights, shape (resamples, n), to values, shape (resamples,). There is
    no interval if a value is not finite: leaving resamples out would hide that the figure
    rests on so little.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(np.ones((1, n)))[0])
        draws = statistic(_weights(n, np.random.default_rng(seed), n_resamples))
    draws = np.where(np.isfinite(draws), draws, np.nan)
    return percentile_interval(value, draws, n)


def _weights(n: int, generator: np.random.Generator, n_resamples: int) -> Array:
    """Return how often each resample draws each latent, shape (n_resamples, n)."""
    drawn = generator.multinomial(n, np.full(n, 1 / n), size=n_resamples)
    return drawn.astype(np.float64)


def _widened(found: Interval, a: Trials, b: Trials) -> Interval:
    """Widen the interval of a rate of ``a`` minus one of ``b`` by what equal outcomes hide."""
    if found.low is None or found.high is None:
        return found
    below, above = unseen(
        [
            (weight, float(trials.success[0]), 1.0, trials.n_latents)
            for weight, trials in ((1.0, a), (-1.0, b))
            if trials.no_variation
        ]
    )
    return found._replace(
        low=max(-1.0, found.low - below), high=min(1.0, found.high + above)
    )
