"""Figures of a group of SAEs that differ only in seed, and differences of groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval_recipes.cross_seed.aggregate import Figures, Pairs
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.intervals import (
    FEW_SEEDS,
    FEWEST_SEEDS,
    difference_over_latents,
    over_pairs,
    pair_values,
    restricted,
)
from eval_recipes.cross_seed.pairs import PAIR_METRICS
from eval_recipes.statistics.interval import OVER_SEEDS, Interval
from eval_recipes.statistics.seeds import SeedPair, paired_difference, seed_interval

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
    """What is compared of a group: by pair of seeds, or by seed."""

    pairs: Pairs
    single: Mapping[int, Figures]
    """Figures of one SAE alone: geometry, held-out text."""
    dependent: Mapping[int, Figures]
    """Figures of one SAE that rest on its pairs: stability, reconstruction shares."""
    overlaps: Mapping[SeedPair, float]
    """Overlap of unstable subspaces at the headline rank, where it is defined."""


def seed_values(by_seed: Mapping[int, Figures], metric: str) -> dict[int, float]:
    """Return a metric of every SAE by seed, where it is defined."""
    found = {seed: figures.get(metric) for seed, figures in by_seed.items()}
    return {seed: figure.value for seed, figure in found.items() if figure}


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

    Figures of pairs: with ``FEWEST_SEEDS`` seeds or more an interval over pairs
    (jackknife), else one over latents. Figures of single SAEs: Student's t over seeds.
    Every pair's or seed's difference is listed. ``distinguishable`` needs an interval over
    seeds or pairs of them: one over latents says nothing about other seeds. Fewer than two
    common seeds give an empty list.
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
    for metric in HEADLINE_SINGLE:
        a, b = (
            _of_seeds(seed_values(group.single, metric), seeds)
            for group in (this, other)
        )
        if len(a) == len(b) == len(seeds):
            values = {(seed,): a[seed] - b[seed] for seed in seeds}
            rows.append(_row(metric, paired_difference(a, b), "seeds", values))
    for metric in _names(this.dependent):
        a, b = (
            _of_seeds(seed_values(group.dependent, metric), seeds)
            for group in (this, other)
        )
        if len(a) == len(b) == len(seeds):
            values = {(seed,): a[seed] - b[seed] for seed in seeds}
            mean = sum(values.values()) / len(seeds)
            interval = Interval(mean, None, None, len(seeds), SEEDS_DEPEND)
            rows.append(_row(metric, interval, None, values))
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


def _of_seeds(values: Mapping[int, float], seeds: list[int]) -> dict[int, float]:
    return {seed: value for seed, value in values.items() if seed in seeds}


def _names(by_seed: Mapping[int, Figures]) -> list[str]:
    """Return the metrics of any seed; one whose text failed may lack some."""
    return list(dict.fromkeys(name for figures in by_seed.values() for name in figures))
