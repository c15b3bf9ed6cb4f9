"""Figures of groups of SAEs that differ only in seed, and their differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from eval_recipes.cross_seed.aggregate import Figures, Pairs, with_partners
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import (
    PAIR_METRICS,
    SYMMETRIC,
    UNBOUNDED,
    PairFigures,
    Side,
)
from eval_recipes.statistics.interval import NO_VARIATION, OVER_SEEDS, Interval
from eval_recipes.statistics.seeds import (
    SeedPair,
    bootstrap_mean_interval,
    paired_difference,
    seed_interval,
    seed_pair_interval,
)

SEEDS_DEPEND = "the SAEs of a group share their pairs, so seeds are no replicates"

HEADLINE_SINGLE = (
    "c_dec",
    "c_dec_alive",
    "mean_cos_sim",
    "encoder_decoder_cos",
    "alive_by_weights",
    "explained_variance",
    "explained_variance_with_bos",
    "l0",
    "alive",
)
"""Figures of single SAEs whose difference between groups is reported."""


@dataclass(frozen=True)
class GroupFigures:
    """Figures of a group to compare, by pair of seeds or by seed."""

    pairs: Pairs
    single: Mapping[int, Figures]
    """Figures of one SAE alone: geometry, held-out text."""
    dependent: Mapping[int, Figures]
    """Figures of one SAE that rest on its pairs: stability, reconstruction shares."""
    overlaps: Mapping[SeedPair, float]
    """Overlap of unstable subspaces at the headline rank, where it is defined."""


def seed_values(
    by_seed: Mapping[int, Figures], metric: str, seeds: Sequence[int] | None = None
) -> dict[int, float]:
    """Return a metric of every SAE, or of those with ``seeds``, by seed, where defined."""
    found = {seed: figures.get(metric) for seed, figures in by_seed.items()}
    return {
        seed: figure.value
        for seed, figure in found.items()
        if figure and (seeds is None or seed in seeds)
    }


def group_figures(group: GroupFigures) -> Figures:
    """Return the means over a group, with intervals over pairs or seeds."""
    figures: Figures = {}
    for metric in PAIR_METRICS:
        values = pair_values(group.pairs, metric)
        complete = len(values) == len(group.pairs)
        figures[metric] = over_pairs(values) if complete else None
    complete = bool(group.overlaps) and len(group.overlaps) == len(group.pairs)
    figures["unstable_overlap"] = over_pairs(group.overlaps) if complete else None
    for metric in _names(group.dependent):
        values = seed_values(group.dependent, metric)
        figures[metric] = (
            seed_interval(values)._replace(low=None, high=None, reason=SEEDS_DEPEND)
            if values
            else None
        )
    for metric in _names(group.single):
        values = seed_values(group.single, metric)
        figures[metric] = seed_interval(values) if values else None
    return figures


def group_differences(
    this: GroupFigures,
    other: GroupFigures,
    *,
    other_group: str,
    config: CrossSeedEvalConfig,
) -> list[dict[str, Any]]:
    """
    Return this group minus another, metric by metric, over the seeds both have.

    Figures of pairs have a jackknife interval over pairs with ``FEWEST_SEEDS`` or more seeds,
    else one over latents. Figures of single SAEs have Student's t interval over seeds. Every
    pair's or seed's difference is listed. Only an interval over seeds or pairs can make a
    difference ``distinguishable``. Fewer than two common seeds give an empty list.
    """
    seeds = sorted(set(this.single) & set(other.single))
    if len(seeds) < 2:
        return []
    rows: list[dict[str, Any]] = []
    ours, theirs = restricted(this.pairs, seeds), restricted(other.pairs, seeds)
    for metric in PAIR_METRICS:
        a, b = pair_values(ours, metric), pair_values(theirs, metric)
        if not len(a) == len(b) == len(seeds) * (len(seeds) - 1) // 2:
            continue
        values = {pair: a[pair] - b[pair] for pair in sorted(a)}
        interval, over = over_pairs(values), "seed pairs"
        if len(seeds) < FEWEST_SEEDS:
            found = difference_over_latents(ours, theirs, metric, config)
            if found is not None:
                interval = found._replace(value=interval.value, reason=FEW_SEEDS)
                over = "latents"
        rows.append(_row(metric, interval, over, values))
    for metric in (*HEADLINE_SINGLE, *_names(this.dependent)):
        alone = metric in HEADLINE_SINGLE
        a, b = (
            seed_values(group.single if alone else group.dependent, metric, seeds)
            for group in (this, other)
        )
        if not len(a) == len(b) == len(seeds):
            continue
        values = {(seed,): a[seed] - b[seed] for seed in seeds}
        if alone:
            found = paired_difference(a, b)
        else:
            mean = sum(values.values()) / len(seeds)
            found = Interval(mean, None, None, len(seeds), SEEDS_DEPEND)
        rows.append(_row(metric, found, "seeds", values))
    return [{**row, "other_group": other_group, "seeds": seeds} for row in rows]


def _row(
    metric: str,
    difference: Interval,
    over: str | None,
    values: Mapping[tuple[int, ...], float],
) -> dict[str, Any]:
    return {
        "metric": metric,
        "difference": difference.value,
        "ci_low": difference.low,
        "ci_high": difference.high,
        "n": difference.n,
        "interval_over": None if difference.low is None else over,
        "distinguishable": over in OVER_SEEDS and difference.distinguishable,
        "reason": difference.reason,
        "values": [
            {"seeds": list(seeds), "difference": value}
            for seeds, value in values.items()
        ],
    }


def _names(by_seed: Mapping[int, Figures]) -> list[str]:
    """Return the metrics of all seeds; a seed whose text failed lacks some."""
    return list(dict.fromkeys(name for figures in by_seed.values() for name in figures))


FEWEST_SEEDS = 5
"""Fewest seeds for an interval over pairs, which then has four degrees of freedom."""

FEW_SEEDS = f"fewer than {FEWEST_SEEDS} seeds: the pairs' values are listed instead"


def pair_values(pairs: Pairs, metric: str) -> dict[SeedPair, float]:
    """Return a metric of every pair, from the side of the lower seed (as published)."""
    figures = {seeds: pair.figure(metric, 0) for seeds, pair in pairs.items()}
    return {seeds: figure for seeds, figure in figures.items() if figure is not None}


def over_pairs(values: Mapping[SeedPair, float]) -> Interval:
    """
    Return the mean over all pairs of seeds, with a jackknife interval over the seeds.

    With fewer than ``FEWEST_SEEDS`` there is no interval: two or three degrees of freedom
    say little about the spread.
    """
    interval = seed_pair_interval(values)
    if len({seed for pair in values for seed in pair}) < FEWEST_SEEDS:
        return interval._replace(low=None, high=None, reason=FEW_SEEDS)
    return interval


class Part(NamedTuple):
    """Contribution of one SAE to a mean over pairs: the mean of its values."""

    values: Tensor
    """[n_latents] float64."""
    cap: float
    """Upper bound of the values, unless the metric is in ``UNBOUNDED``; the lower is 0."""


def latent_parts(pairs: Pairs, metric: str) -> list[Part] | None:
    """
    Return one part per SAE, over its latents, whose means add up to the mean over pairs.

    A resample of one SAE's latents then moves all its pairs together. A pair whose metric
    averages both sides counts half for either SAE. None if a pair lacks the metric.
    """
    parts: dict[int, Part] = {}
    both: tuple[Side, Side] = (0, 1)
    for seeds, pair in pairs.items():
        for side, seed in zip(both, seeds, strict=True):
            if len(pair.values[metric][side]) == 0:
                return None
            if metric in SYMMETRIC:
                share = 0.5 / len(pairs)
            elif side == 0:
                share = 1 / len(pairs)
            else:
                continue
            # float64: a mean of a sum must not drift from the sum of means
            values = with_partners(pair, metric, side).double() * share
            part = Part(values, pair.cap(metric, side) * share)
            if seed in parts:
                before = parts[seed]
                part = Part(before.values + part.values, before.cap + part.cap)
            parts[seed] = part
    return [parts[seed] for seed in sorted(parts)]


def over_latents(
    pairs: Pairs, metric: str, config: CrossSeedEvalConfig
) -> Interval | None:
    """
    Return the mean over pairs with a bootstrap interval over the latents of these SAEs.

    It shows how much the figure depends on the latents, not how it varies over seeds.

    Each SAE's part is resampled alone, and the ends of all are added, as if the parts varied
    together: the SAEs of a group share their concepts, and this is the widest interval of
    their sum. (Resampling one SAE's latents with their partners in all others would miss
    what those share with each other but not with it.) ``n`` is the smallest number of latents
    of an SAE: further SAEs add no independent ones.
    """
    parts = latent_parts(pairs, metric)
    if parts is None:
        return None
    found = [_bootstrap(part, metric, config) for part in parts]
    value, n = sum(part.value for part in found), min(part.n for part in found)
    if any(part.low is None for part in found):
        return Interval(value, None, None, n, NO_VARIATION)
    lows, highs = zip(*(part.ends for part in found), strict=True)
    return Interval(value, sum(lows), sum(highs), n)


def difference_over_latents(
    this: Pairs, other: Pairs, metric: str, config: CrossSeedEvalConfig
) -> Interval | None:
    """
    Return this group's mean over pairs minus another's, latents resampled.

    Groups count as independent: the squared distances of their ends add up (method of
    variance estimates recovery, MOVER). ``n`` counts the latents of both.
    """
    plus, minus = (over_latents(pairs, metric, config) for pairs in (this, other))
    if plus is None or minus is None:
        return None
    value, n = plus.value - minus.value, plus.n + minus.n
    if plus.low is None or minus.low is None:
        return Interval(value, None, None, n, NO_VARIATION)
    (below, above), (less, more) = (
        (figure.value - figure.ends[0], figure.ends[1] - figure.value)
        for figure in (plus, minus)
    )
    low, high = value - math.hypot(below, more), value + math.hypot(above, less)
    return Interval(value, low, high, n)


def _bootstrap(part: Part, metric: str, config: CrossSeedEvalConfig) -> Interval:
    return bootstrap_mean_interval(
        [part.values.numpy()],
        caps=None if metric in UNBOUNDED else [part.cap],
        n_resamples=config.n_resamples,
        seed=config.random_seed,
    )


def restricted(pairs: Pairs, seeds: list[int]) -> dict[SeedPair, PairFigures]:
    """Return the pairs among ``seeds``."""
    return {pair: figures for pair, figures in pairs.items() if {*pair} <= {*seeds}}
