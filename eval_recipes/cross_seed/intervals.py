"""Intervals of a group's pairs: over pairs where there are seeds enough, else over latents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from eval_recipes.cross_seed.aggregate import Pairs, with_partners
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import SYMMETRIC, UNBOUNDED, PairFigures, Side
from eval_recipes.statistics.interval import NO_VARIATION, Interval
from eval_recipes.statistics.seeds import (
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

    So a resample of one SAE's latents moves all its pairs together, each latent with its
    partners: a pair whose metric averages both sides goes half to either SAE. None if a pair
    lacks the metric.
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

    It says how much the figure depends on the latents, not how it varies over seeds.

    Each SAE's part is resampled alone, and the ends of all are added, as if the parts went up
    and down together: the SAEs of a group are made of the same concepts, and that is the
    widest their sum can be. (To resample one SAE's latents with their partners in all the
    others would miss what those share with each other but not with it.) So ``n`` is the
    latents of one SAE, the one with the fewest: further SAEs add none that are independent.
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

    Groups are taken as independent: the distances of their ends add up in squares (the
    method of variance estimates recovery, MOVER), and ``n`` counts the latents of both.
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
