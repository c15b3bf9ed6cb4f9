"""Tests of two groups' success: as published, and clustered by latent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import chi2_contingency

from eval_recipes.results.differences import group_minus_other
from eval_recipes.statistics.seeds import Interval, seed_interval
from eval_recipes.steering.stats.logistic import LogisticFit, fit_logistic
from eval_recipes.steering.stats.rates import (
    Array,
    Trials,
    joined_trials,
    rate_difference,
)

N_PERMUTATIONS = 9999
# Random keys drawn at a time: 2^22 float64 are 32 MiB.
_CHUNK_VALUES = 1 << 22


class PValue(NamedTuple):
    """A test's p-value, or the reason why there is none."""

    p_value: float | None
    reason: str | None = None


def chi_square_yates(
    successes_a: int, trials_a: int, successes_b: int, trials_b: int
) -> PValue:
    """
    Return the chi-square test of two success rates with Yates' correction.

    The test of arXiv 2603.04198. It takes prompts of one latent for independent, so its
    p-value is too small where they are not.

    >>> f"{chi_square_yates(57, 900, 72, 555).p_value:.1e}"
    '2.3e-05'
    """
    table = np.array(
        [
            [successes_a, trials_a - successes_a],
            [successes_b, trials_b - successes_b],
        ]
    )
    if (table < 0).any():
        raise ValueError("expected 0 <= successes <= trials")
    if min(trials_a, trials_b) == 0:
        return PValue(None, "a group has no trial")
    if (table.sum(0) == 0).any():
        return PValue(None, "all trials of both groups have one outcome")
    found: Any = chi2_contingency(table, correction=True)
    return PValue(float(found.pvalue))


def permutation_test(
    a: Trials, b: Trials, *, seed: int, n_permutations: int = N_PERMUTATIONS
) -> PValue:
    """
    Return the two-sided permutation test of two success rates, whole latents permuted.

    Statistic: |rate of a - rate of b|. p = (1 + #{permuted >= observed}) / (1 + permutations),
    valid if latents of both groups are exchangeable under the null, also with few successes
    and with none in one group.
    """
    if not (a.success.size and b.success.size):
        return PValue(None, "a group has no trial")
    if a.no_variation is not None and a.no_variation == b.no_variation:
        return PValue(None, "all trials of both groups have one outcome")
    (wins_a, counts_a), (wins_b, counts_b) = a.by_latent(), b.by_latent()
    wins = np.concatenate([wins_a, wins_b])
    counts = np.concatenate([counts_a, counts_b])
    size, mine = len(wins), len(wins_a)

    def distance(chosen: Array) -> Array:
        w, c = chosen @ wins, chosen @ counts
        return np.abs(w / c - (wins.sum() - w) / (counts.sum() - c))

    observed = float(distance((np.arange(size) < mine)[None].astype(float))[0])
    generator = np.random.default_rng(seed)
    extreme = done = 0
    step = max(1, _CHUNK_VALUES // size)
    while done < n_permutations:
        rows = min(step, n_permutations - done)
        keys = generator.random((rows, size))
        # the `mine` smallest keys of a row are a draw without replacement
        cut = np.partition(keys, mine - 1, axis=1)[:, mine - 1 : mine]
        found = distance((keys <= cut).astype(float))
        # sums in another order may differ in the last bit
        extreme += int((found >= observed - 1e-12).sum())
        done += rows
    return PValue((1 + extreme) / (1 + n_permutations))


@dataclass(frozen=True)
class GroupComparison:
    """Group ``a`` against group ``b``."""

    difference: Interval | None
    """Rate of a minus rate of b, bootstrap over latents."""
    chi_square: PValue
    """As published; takes all trials for independent."""
    permutation: PValue
    """Clustered: whole latents permuted. The test to read."""
    odds_ratio: LogisticFit
    """Also clustered: logistic fit on ``group`` (1 = a) with errors robust within latents."""
    over_seeds: Interval | None
    """Mean difference of the rates of SAEs with the same seed, Student's t over seeds; None
    without seeds in common. It generalises to unseen seeds."""


def compare_groups(
    a: Trials,
    b: Trials,
    *,
    seed: int,
    seeds_a: Mapping[int, float] | None = None,
    seeds_b: Mapping[int, float] | None = None,
) -> GroupComparison:
    """
    Compare the success of two groups of SAEs in every way that is reported.

    Latents of different SAEs are different latents. ``seeds_a`` and ``seeds_b`` hold the success
    rate of each SAE by training seed; ``seed`` is that of resamples and permutations.
    """
    group = np.concatenate([np.ones(a.success.size), np.zeros(b.success.size)])
    return GroupComparison(
        difference=rate_difference(a, b, seed=seed),
        chi_square=chi_square_yates(
            int(a.success.sum()), a.success.size, int(b.success.sum()), b.success.size
        ),
        permutation=permutation_test(a, b, seed=seed),
        odds_ratio=fit_logistic(joined_trials(a, b), {"group": group}),
        over_seeds=difference_over_seeds(seeds_a or {}, seeds_b or {}),
    )


def rate_over_seeds(rates: Mapping[int, float]) -> Interval | None:
    """Return the mean success rate of SAEs that differ in seed, Student's t over seeds."""
    return seed_interval(rates) if rates else None


def difference_over_seeds(
    a: Mapping[int, float], b: Mapping[int, float]
) -> Interval | None:
    """Return the mean difference at equal seeds, Student's t; None without seeds in common."""
    found = group_minus_other(a, b)
    return None if found is None else found.interval
