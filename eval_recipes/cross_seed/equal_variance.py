"""A family of groups compared with another group at the latter's explained variance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from eval_recipes.cross_seed.comparison import Comparison, Z
from eval_recipes.cross_seed.interpolation import (
    Estimate,
    Point,
    at_explained_variance,
)
from eval_recipes.cross_seed.intervals import FEWEST_SEEDS, over_pairs
from eval_recipes.cross_seed.result_groups import ResultGroup
from eval_recipes.statistics import SeedPair


def at_equal_variance(
    family: Sequence[ResultGroup], other: ResultGroup, metric: str
) -> Comparison:
    """Return the family's metric at the explained variance of ``other``, minus the latter's."""
    target = other.explained_variance
    own = other.metric(metric)
    points = [
        Point(member.role.coefficient or 0.0, member.explained_variance, found)
        for member in family
        if (found := member.metric(metric)) is not None
    ]
    common: dict[str, Any] = {
        "kind": "regularised - matched at equal explained variance",
        "group": f"family of {family[-1].role.name}",
        "other": other.role.name,
        "metric": metric,
        "explained_variance": target.value,
    }
    if own is None or len(points) < len(family):
        return Comparison(**common, **_nothing("the metric is not defined everywhere"))
    found = at_explained_variance(points, target)
    if found.estimate is None:
        return Comparison(**common, **_nothing(found.reason))
    values = _by_pair(family, other, metric)
    difference = found.estimate.value - own.value
    low, high, over, reason = None, None, None, None
    complete = None not in values.values()
    listed = {pair: value for pair, value in values.items() if value is not None}
    if complete and len({s for pair in values for s in pair}) >= FEWEST_SEEDS:
        interval = over_pairs(listed)
        difference, low, high = interval.value, interval.low, interval.high
        over, reason = "seed pairs", interval.reason
    elif found.estimate.error is not None and own.error is not None:
        half = Z * math.hypot(found.estimate.error, own.error)
        low, high, over = difference - half, difference + half, "latents and contexts"
    return Comparison(
        **common,
        difference=difference,
        low=low,
        high=high,
        interval_over=over,
        values=listed,
        between=found.between,
        reason=reason,
    )


def _by_pair(
    family: Sequence[ResultGroup], other: ResultGroup, metric: str
) -> dict[SeedPair, float | None]:
    """Return the difference in each pair of seeds alone; None where it has none."""
    common = set(other.pairs).intersection(*(set(member.pairs) for member in family))
    return {pair: _of_pair(family, other, metric, pair) for pair in sorted(common)}


def _of_pair(
    family: Sequence[ResultGroup], other: ResultGroup, metric: str, pair: SeedPair
) -> float | None:
    own, target = other.pairs[pair][metric], _variance(other, pair)
    points: list[Point] = []
    for member in family:
        figure, variance = member.pairs[pair][metric], _variance(member, pair)
        if figure is None or variance is None:
            return None
        coefficient = member.role.coefficient or 0.0
        points.append(Point(coefficient, Estimate(variance), Estimate(figure)))
    if own is None or target is None:
        return None
    found = at_explained_variance(points, Estimate(target)).estimate
    return None if found is None else found.value - own


def _variance(group: ResultGroup, pair: SeedPair) -> float | None:
    values = group.single["explained_variance"]
    if pair[0] not in values or pair[1] not in values:
        return None
    return (values[pair[0]] + values[pair[1]]) / 2


def _nothing(reason: str | None) -> dict[str, Any]:
    return {
        "difference": None,
        "low": None,
        "high": None,
        "interval_over": None,
        "values": {},
        "reason": reason,
    }
