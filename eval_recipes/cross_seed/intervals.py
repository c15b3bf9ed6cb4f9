"""Intervals of a group's pairs: over pairs where there are seeds enough, else over latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from eval_recipes.cross_seed.aggregate import Pairs
from eval_recipes.cross_seed.config import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import SYMMETRIC, UNBOUNDED, PairFigures, Side
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


class Part(NamedTuple):
    """What one SAE adds to a mean over pairs: its values' mean."""

    values: Tensor
    """[n_latents] float64."""
    cap: float
    """What no value exceeds, unless the metric is in ``UNBOUNDED``; none is below 0."""


def latent_parts(pairs: Pairs, metric: str) -> list[Part] | None:
    """
    Return one part an SAE, over its latents, whose means add up to the mean over pairs.

    So a resample of one SAE's latents moves all its pairs together, each matched latent
    with its partners. None if a pair lacks the metric.
    """
    parts: dict[int, Part] = {}
    both: tuple[Side, Side] = (0, 1)
    for seeds, pair in pairs.items():
        for side, seed in zip(both, seeds, strict=True):
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
            part = Part(values.double() * share, pair.cap(metric, side) * share)
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

    It says how much the figure depends on the latents, not how it varies over seeds.
    """
    parts = latent_parts(pairs, metric)
    if parts is None:
        return None
    return _bootstrap(parts, [1.0] * len(parts), config, bounded=_bounded(metric))


def difference_over_latents(
    this: Pairs, other: Pairs, metric: str, config: CrossSeedEvalConfig
) -> Interval | None:
    """Return this group's mean over pairs minus another's, latents resampled."""
    plus, minus = latent_parts(this, metric), latent_parts(other, metric)
    if plus is None or minus is None:
        return None
    weights = [1.0] * len(plus) + [-1.0] * len(minus)
    return _bootstrap([*plus, *minus], weights, config, bounded=_bounded(metric))


def _bounded(metric: str) -> bool:
    return metric not in UNBOUNDED


def _bootstrap(
    parts: Sequence[Part],
    weights: list[float],
    config: CrossSeedEvalConfig,
    *,
    bounded: bool,
) -> Interval:
    interval = bootstrap_mean_interval(
        [part.values.numpy() for part in parts],
        weights=weights,
        caps=[part.cap for part in parts] if bounded else None,
        n_resamples=config.n_resamples,
        seed=config.random_seed,
    )
    return interval._replace(n=sum(len(part.values) for part in parts))


def restricted(pairs: Pairs, seeds: list[int]) -> dict[SeedPair, PairFigures]:
    """Return the pairs among ``seeds``."""
    return {pair: figures for pair, figures in pairs.items() if {*pair} <= {*seeds}}
