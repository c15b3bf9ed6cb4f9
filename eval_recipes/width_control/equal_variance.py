"""Comparison of groups at equal explained variance, by interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from eval_recipes.statistics.interval import Interval
from eval_recipes.statistics.seeds import (
    FEW_SEEDS,
    FEWEST_SEEDS,
    SeedPair,
    over_pairs,
)
from eval_recipes.width_control.result_groups import (
    Comparison,
    Estimate,
    ResultGroup,
    Z,
    interval_fields,
)

KIND = "regularised - matched at equal explained variance"
DIFFERENT_SEEDS = "the groups have different seeds: only pairs that all have count"
OTHER_SEEDS = f"{DIFFERENT_SEEDS}, and errors over latents are known for all pairs of a group only"

SAME_WIDTH = "all latents are alive, so the control is as wide as the family and equals its group without penalty"


class Point(NamedTuple):
    """One group of a family: groups that differ in the penalty's coefficient only."""

    coefficient: float
    explained_variance: Estimate
    metric: Estimate


class Interpolated(NamedTuple):
    """The metric at the explained variance asked for, or why there is none."""

    estimate: Estimate | None
    between: tuple[float, float] | None = None
    """Coefficients of the neighbours."""
    reason: str | None = None


def at_explained_variance(points: Sequence[Point], target: Estimate) -> Interpolated:
    """
    Interpolate a family's metric, linearly, to the explained variance ``target``.

    Between neighbours in the coefficient, metric and explained variance are both taken as
    linear in it, so the metric is linear in the explained variance:
    m = (1 - w) m_1 + w m_2 with w = (e - e_1) / (e_2 - e_1) and slope s = (m_2 - m_1) / (e_2 - e_1).
    The standard error is that of first order (delta method). The neighbours are made of the
    same concepts and read the same contexts, so their errors are added, as if they went up and
    down together; else inputs are taken as independent. Its square is
    ((1 - w) err m_1 + w err m_2)^2 + s^2 ((1 - w) err e_1 + w err e_2)^2 + s^2 err e^2.

    There is no value, and a reason, where the explained variance lies outside the family's
    range, or the family passes it more than once.

    >>> family = [Point(0.0, Estimate(0.8), Estimate(0.0)), Point(1e-4, Estimate(0.6), Estimate(0.4))]
    >>> round(at_explained_variance(family, Estimate(0.7)).estimate.value, 6)
    0.2
    """
    ordered = sorted(points, key=lambda point: point.coefficient)
    if len({point.coefficient for point in ordered}) != len(ordered):
        raise ValueError("expected different coefficients within a family")
    if len(ordered) < 2:
        return Interpolated(None, reason="the family has fewer than two coefficients")
    values = [point.explained_variance.value for point in ordered]
    e = target.value
    if not min(values) <= e <= max(values):
        return Interpolated(
            None,
            reason=f"explained variance {e:.4f} lies outside the family's range "
            f"{min(values):.4f} to {max(values):.4f}",
        )
    last = len(values) - 1
    # a group that is there itself takes any neighbour: its share is 0
    found = [(i, i + 1 if i < last else i - 1) for i, v in enumerate(values) if v == e]
    found += [
        (i, i + 1) for i in range(last) if (values[i] - e) * (values[i + 1] - e) < 0
    ]
    if len(found) > 1:
        return Interpolated(
            None,
            reason=f"the family passes explained variance {e:.4f} more than once",
        )
    first, second = (ordered[i] for i in found[0])
    low, high = sorted((first.coefficient, second.coefficient))
    return Interpolated(_between(first, second, target), between=(low, high))


def _between(first: Point, second: Point, target: Estimate) -> Estimate:
    (e1, d1), (m1, f1) = first.explained_variance, first.metric
    (e2, d2), (m2, f2) = second.explained_variance, second.metric
    w, slope = (target.value - e1) / (e2 - e1), (m2 - m1) / (e2 - e1)
    value = (1 - w) * m1 + w * m2
    errors = (d1, f1, d2, f2, target.error)
    if any(error is None for error in errors):
        return Estimate(value)
    d1, f1, d2, f2, d = (float(error or 0.0) for error in errors)
    error = math.hypot(
        (1 - w) * f1 + w * f2, slope * ((1 - w) * d1 + w * d2), slope * d
    )
    return Estimate(value, error)


def at_equal_variance(
    group: ResultGroup, family: Sequence[ResultGroup], other: ResultGroup, metric: str
) -> Comparison:
    """
    Return a family's metric at the explained variance of ``other``, minus the latter's.

    ``family`` holds the groups that differ from ``group`` in the coefficient only, itself among them;
    ``other`` is the control, ``metric`` one of ``PAIR_METRICS``.

    With five common seeds or more, every pair of which has a value, the interval is over
    pairs. Else it is over latents and contexts if all have the same seeds, and ``reason``
    says why it is no more than that.
    """
    if any(
        m.role.coefficient == 0 and m.role.d_sae == other.role.d_sae for m in family
    ):
        return Comparison(
            kind=KIND,
            group=group.role.name,
            other=other.role.name,
            metric=metric,
            reason=SAME_WIDTH,
        )
    common = sorted(set(other.pairs).intersection(*(m.pairs for m in family)))
    same_seeds = all(member.seeds == other.seeds for member in family)
    seeds = sorted({seed for pair in common for seed in pair})
    about: dict[str, Any] = {
        "kind": KIND,
        "group": group.role.name,
        "other": other.role.name,
        "metric": metric,
        "explained_variance": _mean_variance(other, seeds),
    }
    values = differences_by_pair(family, other, metric)
    complete = bool(common) and len(values) == len(common)
    enough = len(seeds) >= FEWEST_SEEDS
    whole = _over_all(family, other, metric)
    over = "latents and contexts"
    if complete and enough:
        found, over = over_pairs(values), "seed pairs"
    elif not same_seeds and not complete:
        reason = (
            f"{DIFFERENT_SEEDS}; of those {len(values)} of {len(common)} have a value"
        )
        return Comparison(**about, reason=reason)
    elif not same_seeds:
        found = Interval(fmean(values.values()), None, None, len(values), OTHER_SEEDS)
    elif whole.estimate is None:
        return Comparison(**about, reason=whole.reason)
    else:
        why = (
            f"{len(common) - len(values)} of {len(common)} pairs of seeds have no value at "
            "this explained variance"
            if enough
            else FEW_SEEDS
        )
        found = _over_latents(whole, family, other, metric, len(values), why)
    return Comparison(
        **about, **interval_fields(found, over), values=values, between=whole.between
    )


def differences_by_pair(
    family: Sequence[ResultGroup], other: ResultGroup, metric: str
) -> dict[SeedPair, float]:
    """
    Return a family's metric at the explained variance of ``other``, minus the latter's.

    By the pairs of seeds that all groups have. A pair is left out in which the explained
    variance of ``other`` lies outside the family's, or is passed more than once.
    """
    common = sorted(set(other.pairs).intersection(*(m.pairs for m in family)))
    by_pair = {pair: _of_pair(family, other, metric, pair) for pair in common}
    return {pair: value for pair, value in by_pair.items() if value is not None}


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
    points = [
        Point(member.role.coefficient or 0.0, Estimate(variance), Estimate(figure))
        for member in family
        if (figure := member.pairs[pair][metric]) is not None
        and (variance := _mean_variance(member, pair)) is not None
    ]
    if own is None or target is None or len(points) < len(family):
        return None
    found = at_explained_variance(points, Estimate(target)).estimate
    return None if found is None else found.value - own


def _mean_variance(group: ResultGroup, seeds: Sequence[int]) -> float | None:
    values = group.single["explained_variance"]
    if not seeds or not set(seeds) <= set(values):
        return None
    return fmean(values[seed] for seed in seeds)
