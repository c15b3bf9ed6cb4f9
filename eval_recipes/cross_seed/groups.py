"""Figures of a group of SAEs that differ only in seed, and differences of groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval_recipes.cross_seed.aggregate import Figures, Pairs
from eval_recipes.cross_seed.pairs import PAIR_METRICS
from eval_recipes.statistics import (
    Interval,
    SeedPair,
    paired_difference,
    paired_pair_difference,
    seed_interval,
    seed_pair_interval,
)


def pair_values(pairs: Pairs, metric: str) -> dict[SeedPair, float]:
    """Return a metric of every pair, from the side of the lower seed (as published)."""
    figures = {seeds: pair.figure(metric, 0) for seeds, pair in pairs.items()}
    return {seeds: figure for seeds, figure in figures.items() if figure is not None}


def seed_values(by_seed: Mapping[int, Figures], metric: str) -> dict[int, float]:
    """Return a metric of every SAE by seed, where it is defined."""
    found = {seed: figures[metric] for seed, figures in by_seed.items()}
    return {seed: figure.value for seed, figure in found.items() if figure}


def group_figures(
    pairs: Pairs,
    stability: Mapping[int, Figures],
    single: Mapping[int, Figures],
) -> Figures:
    """
    Return the means over a group.

    Args:
        pairs: every pair of the group's seeds.
        stability: stability figures by seed.
        single: figures of one SAE alone (geometry, held-out text) by seed.
    """
    figures: Figures = {}
    for metric in PAIR_METRICS:
        values = pair_values(pairs, metric)
        complete = len(values) == len(pairs)
        figures[metric] = seed_pair_interval(values) if complete else None
    for metric in next(iter(stability.values())):
        values = seed_values(stability, metric)
        reason = (
            "the figures of SAEs that are matched with each other depend on each other"
        )
        figures[metric] = (
            seed_interval(values)._replace(low=None, high=None, reason=reason)
            if values
            else None
        )
    for metric in next(iter(single.values())):
        values = seed_values(single, metric)
        figures[metric] = seed_interval(values) if values else None
    return figures


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


STABILITY = (
    "always_shared",
    "sometimes_shared",
    "never_shared",
    "always_shared_alive",
    "sometimes_shared_alive",
    "never_shared_alive",
)

_SEEDS_DEPEND = "the SAEs of a group share their pairs, so seeds are no replicates"


def group_differences(
    this: tuple[Pairs, Mapping[int, Figures]],
    other: tuple[Pairs, Mapping[int, Figures]],
    *,
    other_group: str,
    stability: tuple[Mapping[int, Figures], Mapping[int, Figures]] = ({}, {}),
) -> list[dict[str, Any]]:
    """
    Return this group minus another, metric by metric, over the seeds both have.

    Each group is its pairs and its figures of single SAEs by seed. Fewer than
    two common seeds give an empty list. ``stability`` holds both groups' shares of
    always, sometimes and never shared latents by seed.
    """
    seeds = sorted(set(this[1]) & set(other[1]))
    if len(seeds) < 2:
        return []
    n_pairs = len(seeds) * (len(seeds) - 1) // 2
    differences: Figures = {}
    for metric in PAIR_METRICS:
        a, b = (
            {s: v for s, v in pair_values(pairs, metric).items() if {*s} <= {*seeds}}
            for pairs, _ in (this, other)
        )
        defined = len(a) == len(b) == n_pairs
        differences[metric] = paired_pair_difference(a, b) if defined else None
    for metric in HEADLINE_SINGLE:
        a, b = (
            {s: v for s, v in seed_values(by_seed, metric).items() if s in seeds}
            for _, by_seed in (this, other)
        )
        defined = len(a) == len(b) == len(seeds)
        differences[metric] = paired_difference(a, b) if defined else None
    for metric in STABILITY:
        a, b = (
            {s: v for s, v in seed_values(by_seed, metric).items() if s in seeds}
            for by_seed in stability
        )
        if len(a) == len(b) == len(seeds):
            mean = sum(a[s] - b[s] for s in seeds) / len(seeds)
            differences[metric] = Interval(mean, None, None, len(seeds), _SEEDS_DEPEND)
    return [
        {
            "metric": metric,
            "other_group": other_group,
            "seeds": seeds,
            "difference": difference.value,
            "ci_low": difference.low,
            "ci_high": difference.high,
            "n": difference.n,
            "distinguishable": difference.distinguishable,
            "reason": difference.reason,
        }
        for metric, difference in differences.items()
        if difference
    ]
