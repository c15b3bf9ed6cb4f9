"""Figures of groups of SAEs that differ in seed; differences of groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from eval_recipes.cross_seed.aggregate import Figures, Pairs, with_partners
from eval_recipes.cross_seed.metrics import OVERLAPS, PAIR_METRICS
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import (
    SYMMETRIC,
    UNBOUNDED,
    PairFigures,
    Side,
)
from eval_recipes.results.differences import (
    Difference,
    Values,
    group_minus_other,
    listed_values,
)
from eval_recipes.statistics.interval import NO_VARIATION, OVER_SEEDS, Interval
from eval_recipes.statistics.seeds import (
    FEW_SEEDS,
    FEWEST_SEEDS,
    SeedPair,
    bootstrap_mean_interval,
    over_pairs,
    seed_interval,
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
    """Figures of one SAE that rest on its pairs, such as stability."""
    overlaps: Mapping[str, Mapping[SeedPair, float]]
    """``OVERLAPS`` at the headline rank, where they are defined."""


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
    for metric in OVERLAPS:
        values = group.overlaps.get(metric, {})
        complete = bool(values) and len(values) == len(group.pairs)
        figures[metric] = over_pairs(values) if complete else None
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
        found = group_minus_other(a, b)
        n_pairs = len(seeds) * (len(seeds) - 1) // 2
        if found is None or not len(a) == len(b) == n_pairs:
            continue
        interval, over = found.interval, "seed pairs"
        if len(seeds) < FEWEST_SEEDS:
            latents = difference_over_latents(ours, theirs, metric, config)
            if latents is not None:
                interval = latents._replace(value=interval.value, reason=FEW_SEEDS)
                over = "latents"
        rows.append(_row(metric, interval, over, found.values))
    for metric in HEADLINE_SINGLE:
        found = _over_seeds(this.single, other.single, metric, seeds)
        if found is not None:
            rows.append(_row(metric, found.interval, "seeds", found.values))
    for metric in _names(this.dependent):
        found = _over_seeds(this.dependent, other.dependent, metric, seeds)
        if found is not None:
            mean = sum(value for _, value in found.values) / len(seeds)
            interval = Interval(mean, None, None, len(seeds), SEEDS_DEPEND)
            rows.append(_row(metric, interval, None, found.values))
    return [{**row, "other_group": other_group, "seeds": seeds} for row in rows]


def _row(
    metric: str,
    difference: Interval,
    over: str | None,
    values: Values,
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
        "values": listed_values(values),
    }


def _over_seeds(
    this: Mapping[int, Figures],
    other: Mapping[int, Figures],
    metric: str,
    seeds: list[int],
) -> Difference | None:
    """Subtract a figure of single SAEs; None unless both have it in every seed."""
    a, b = (seed_values(group, metric, seeds) for group in (this, other))
    return group_minus_other(a, b) if len(a) == len(b) == len(seeds) else None


def _names(by_seed: Mapping[int, Figures]) -> list[str]:
    """Return the metrics of all seeds; a seed whose text failed lacks some."""
    return list(dict.fromkeys(name for figures in by_seed.values() for name in figures))


def pair_values(pairs: Pairs, metric: str) -> dict[SeedPair, float]:
    """Return a metric of every pair, from the side of the lower seed (as published)."""
    figures = {seeds: pair.figure(metric, 0) for seeds, pair in pairs.items()}
    return {seeds: figure for seeds, figure in figures.items() if figure is not None}


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
    figure = Interval(value, sum(lows), sum(highs), n)
    return figure if metric in UNBOUNDED else figure.within_one()


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
