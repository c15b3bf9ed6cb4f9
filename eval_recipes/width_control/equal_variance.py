"""A family of groups compared with another group at the latter's explained variance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from eval_recipes.cross_seed.groups import FEW_SEEDS, FEWEST_SEEDS, over_pairs
from eval_recipes.statistics.interval import Interval
from eval_recipes.statistics.seeds import SeedPair
from eval_recipes.width_control.comparison import Comparison, Z
from eval_recipes.width_control.interpolation import (
    Estimate,
    Interpolated,
    Point,
    at_explained_variance,
)
from eval_recipes.width_control.result_groups import ResultGroup

KIND = "regularised - matched at equal explained variance"
DIFFERENT_SEEDS = "the groups have different seeds: only pairs that all have count"
OTHER_SEEDS = f"{DIFFERENT_SEEDS}, and errors over latents are known for all pairs of a group only"


def at_equal_variance(
    group: ResultGroup, family: Sequence[ResultGroup], other: ResultGroup, metric: str
) -> Comparison:
    """
    Return a family's metric at the explained variance of ``other``, minus the latter's.

    Args:
        group: the regularised group whose family it is, and whose control ``other`` is.
        family: groups that differ from it in the coefficient only, itself among them.
        other: the control.
        metric: one of ``PAIR_METRICS``.

    With five common seeds or more, every pair of which has a value, the interval is over
    pairs. Else it is over latents and contexts if all have the same seeds, and ``reason``
    says why it is no more than that.
    """
    everyone = [*family, other]
    common = sorted(set(other.pairs).intersection(*(set(m.pairs) for m in family)))
    same_seeds = all(member.seeds == other.seeds for member in everyone)
    seeds = sorted({seed for pair in common for seed in pair})
    about: dict[str, Any] = {
        "kind": KIND,
        "group": group.role.name,
        "other": other.role.name,
        "metric": metric,
        "explained_variance": _mean_variance(other, seeds),
    }
    by_pair = {pair: _of_pair(family, other, metric, pair) for pair in common}
    values = {pair: value for pair, value in by_pair.items() if value is not None}
    complete = bool(common) and len(values) == len(common)
    enough = len(seeds) >= FEWEST_SEEDS
    whole = _over_all(family, other, metric)
    over = "latents and contexts"
    if complete and enough:
        found, over = over_pairs(values), "seed pairs"
    elif not same_seeds:
        if not complete:
            reason = f"{DIFFERENT_SEEDS}; of those {len(values)} of {len(common)} have a value"
            return Comparison(**about, **_nothing(reason))
        found = Interval(fmean(values.values()), None, None, len(values), OTHER_SEEDS)
    elif whole.estimate is None:
        return Comparison(**about, **_nothing(whole.reason))
    else:
        why = (
            f"{len(common) - len(values)} of {len(common)} pairs of seeds have no value at "
            "this explained variance"
            if enough
            else FEW_SEEDS
        )
        found = _over_latents(whole, family, other, metric, len(values), why)
    return Comparison(
        **about,
        difference=found.value,
        low=found.low,
        high=found.high,
        interval_over=None if found.low is None else over,
        n=found.n,
        values=values,
        between=whole.between,
        reason=found.reason,
    )


def _over_all(
    family: Sequence[ResultGroup], other: ResultGroup, metric: str
) -> Interpolated:
    """Interpolate the means over all pairs of every group."""
    target = other.explained_variance
    points = [
        Point(member.role.coefficient or 0.0, variance, figure)
        for member in family
        if (figure := member.metric(metric)) is not None
        and (variance := member.explained_variance) is not None
    ]
    if target is None or other.metric(metric) is None or len(points) < len(family):
        reason = "the metric or the explained variance is not defined everywhere"
        return Interpolated(None, reason=reason)
    return at_explained_variance(points, target)


def _over_latents(
    whole: Interpolated,
    family: Sequence[ResultGroup],
    other: ResultGroup,
    metric: str,
    n_values: int,
    why: str,
) -> Interval:
    """Return the difference with the delta method's interval, where all errors are known."""
    estimate, own = whole.estimate, other.metric(metric)
    if estimate is None or own is None:
        raise ValueError(f"{other.role.name}: {metric} has no value to subtract")
    difference = estimate.value - own.value
    if estimate.error is None or own.error is None:
        reason = f"a group has no interval over latents or contexts; {why}"
        return Interval(difference, None, None, n_values, reason)
    half = Z * math.hypot(estimate.error, own.error)
    used = [m for m in family if (m.role.coefficient or 0.0) in (whole.between or ())]
    n = sum(member.n_latents(metric) for member in (*used, other))
    return Interval(difference, difference - half, difference + half, n, why)


def _of_pair(
    family: Sequence[ResultGroup], other: ResultGroup, metric: str, pair: SeedPair
) -> float | None:
    """Return the difference in one pair of seeds alone; None where it has none."""
    own, target = other.pairs[pair][metric], _mean_variance(other, pair)
    points: list[Point] = []
    for member in family:
        figure, variance = member.pairs[pair][metric], _mean_variance(member, pair)
        if figure is None or variance is None:
            return None
        coefficient = member.role.coefficient or 0.0
        points.append(Point(coefficient, Estimate(variance), Estimate(figure)))
    if own is None or target is None:
        return None
    found = at_explained_variance(points, Estimate(target)).estimate
    return None if found is None else found.value - own


def _mean_variance(group: ResultGroup, seeds: Sequence[int]) -> float | None:
    values = group.single["explained_variance"]
    if not seeds or not set(seeds) <= set(values):
        return None
    return fmean(values[seed] for seed in seeds)


def _nothing(reason: str | None) -> dict[str, Any]:
    return {
        "difference": None,
        "low": None,
        "high": None,
        "interval_over": None,
        "n": 0,
        "values": {},
        "reason": reason,
    }
