"""Intervals of a group's pairs: over pairs where there are seeds enough, else over latents."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eval_recipes.cross_seed.aggregate import Pairs
from eval_recipes.cross_seed.config import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import SYMMETRIC, PairFigures
from eval_recipes.statistics import (
    Interval,
    SeedPair,
    bootstrap_mean_interval,
    seed_pair_interval,
)

FEWEST_SEEDS = 5
"""Seeds below which pairs get no interval: four degrees of freedom at the least."""

FEW_SEEDS = f"fewer than {FEWEST_SEEDS} seeds: the pairs' values are listed instead"


def pair_values(pairs: Pairs, metric: str) -> dict[SeedPair, float]:
    """Return a metric of every pair, from the side of the lower seed (as published)."""
    figures = {seeds: pair.figure(metric, 0) for seeds, pair in pairs.items()}
    return {seeds: figure for seeds, figure in figures.items() if figure is not None}


def over_pairs(values: Mapping[SeedPair, float]) -> Interval:
    """
    Return the mean over all pairs of seeds, with a jackknife interval over the seeds.

    With fewer than ``FEWEST_SEEDS`` there is none: two or three degrees of freedom say
    next to nothing about the spread, and the few values themselves say more.
    """
    interval = seed_pair_interval(values)
    if len({seed for pair in values for seed in pair}) < FEWEST_SEEDS:
        return interval._replace(low=None, high=None, reason=FEW_SEEDS)
    return interval


def latent_parts(pairs: Pairs, metric: str) -> list[Tensor] | None:
    """
    Return one array an SAE, over its latents, whose means add up to the mean over pairs.

    So a resample of one SAE's latents moves all its pairs together, each matched latent
    with its partners. None if a pair lacks the metric.
    """
    parts: dict[int, Tensor] = {}
    for seeds, pair in pairs.items():
        for side, seed in enumerate(seeds):
            values = pair.values[metric][side]
            if len(values) == 0:
                return None
            if metric in SYMMETRIC:
                share = 0.5 / len(pairs)
            elif side == 0:
                share = 1 / len(pairs)
            else:
                continue
            # float64: a mean of a sum must not drift from the sum of means
            part = values.double() * share
            parts[seed] = parts[seed] + part if seed in parts else part
    return [parts[seed] for seed in sorted(parts)]


def over_latents(
    pairs: Pairs, metric: str, config: CrossSeedEvalConfig
) -> Interval | None:
    """
    Return the mean over pairs with a bootstrap interval over the latents of these SAEs.

    It says how much the figure depends on the latents, not how it varies over seeds.
    """
    parts = latent_parts(pairs, metric)
    return None if parts is None else _bootstrap(parts, [1.0] * len(parts), config)


def difference_over_latents(
    this: Pairs, other: Pairs, metric: str, config: CrossSeedEvalConfig
) -> Interval | None:
    """Return this group's mean over pairs minus another's, latents resampled."""
    plus, minus = latent_parts(this, metric), latent_parts(other, metric)
    if plus is None or minus is None:
        return None
    weights = [1.0] * len(plus) + [-1.0] * len(minus)
    return _bootstrap([*plus, *minus], weights, config)


def _bootstrap(
    parts: list[Tensor], weights: list[float], config: CrossSeedEvalConfig
) -> Interval:
    interval = bootstrap_mean_interval(
        [part.numpy() for part in parts],
        weights=weights,
        n_resamples=config.n_resamples,
        seed=config.random_seed,
    )
    return interval._replace(n=sum(len(part) for part in parts))


def restricted(pairs: Pairs, seeds: list[int]) -> dict[SeedPair, PairFigures]:
    """Return the pairs among ``seeds``."""
    return {pair: figures for pair, figures in pairs.items() if {*pair} <= {*seeds}}
