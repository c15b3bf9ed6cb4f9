"""A metric of one family of groups where its explained variance is that of another SAE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Estimate(NamedTuple):
    """A figure and its standard error, None where it is not known."""

    value: float
    error: float | None = None


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
    exact = [i for i, value in enumerate(values) if value == e]
    spans = [
        i for i in range(len(values) - 1) if (values[i] - e) * (values[i + 1] - e) < 0
    ]
    if len(exact) + len(spans) > 1:
        return Interpolated(
            None,
            reason=f"the family passes explained variance {e:.4f} more than once",
        )
    if exact:
        at = exact[0]
        neighbour = at + 1 if at + 1 < len(ordered) else at - 1
        first, second = ordered[at], ordered[neighbour]
    else:
        first, second = ordered[spans[0]], ordered[spans[0] + 1]
    between = sorted((first.coefficient, second.coefficient))
    return Interpolated(
        _between(first, second, target), between=(between[0], between[1])
    )


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
