"""From a tidy table of results to the rows of a study: groups, figures, intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from eval_recipes.report import GroupDifference, group_figure
from eval_recipes.statistics import Interval, paired_difference, seed_interval
from eval_recipes.studies.model import Column
from eval_recipes.studies.verdicts import Claim, Verdict, judge

CROSS_SEED = "cross_seed"


def groups_of(frame: pd.DataFrame) -> list[str]:
    """Return the groups in the order in which they were trained."""
    return list(dict.fromkeys(str(name) for name in frame["group"].dropna()))


def values_of(frame: pd.DataFrame, group: str, column: Column) -> dict[int, float]:
    """Return a figure of one group by seed, where it has a value."""
    rows = frame.loc[
        (frame["group"] == group)
        & (frame["eval"] == column.eval)
        & (frame["metric"] == column.metric)
        & frame["value"].notna()
    ]
    return {int(seed): float(value) for seed, value in zip(rows["seed"], rows["value"])}


def figure_of(frame: pd.DataFrame, group: str, column: Column) -> Interval | None:
    """
    Return a group's mean over seeds with Student's t interval.

    Figures of pairs of seeds come from the cross-seed evaluation itself, which accounts
    for pairs that share a seed.
    """
    values = values_of(frame, group, column)
    if not values:
        return None
    if column.eval != CROSS_SEED:
        return seed_interval(values)
    rows: Any = frame.loc[frame["group"] == group]
    found = group_figure(rows, column.key)
    if found is None:
        return None
    reason = None if found.low is not None else "few seeds: pairs have no interval"
    return Interval(found.value, found.low, found.high, len(values), reason)


def difference_of(
    frame: pd.DataFrame,
    claim: Claim,
    column: Column,
    differences: Iterable[GroupDifference],
) -> Interval | None:
    """
    Return ``group - other`` of a claim, paired by the seeds that both have.

    None if either lacks the figure or they have no seed in common.
    """
    if column.eval == CROSS_SEED:
        return _cross_seed_difference(claim, column, differences)
    a, b = (values_of(frame, name, column) for name in (claim.group, claim.other))
    seeds = sorted(set(a) & set(b))
    if not seeds:
        return None
    return paired_difference({s: a[s] for s in seeds}, {s: b[s] for s in seeds})


def _cross_seed_difference(
    claim: Claim, column: Column, differences: Iterable[GroupDifference]
) -> Interval | None:
    name = column.metric.rsplit("/", 1)[-1]
    for item in differences:
        if item.metric != name or {item.group, item.other} != {
            claim.group,
            claim.other,
        }:
            continue
        found = item if item.group == claim.group else item.reversed()
        reason = "pairs have no interval" if found.ci_low is None else None
        return Interval(
            found.difference, found.ci_low, found.ci_high, found.n or 0, reason
        )
    return None


def judge_all(
    frame: pd.DataFrame,
    claims: Sequence[Claim],
    columns: Sequence[Column],
    differences: Sequence[GroupDifference] = (),
) -> list[Verdict]:
    """
    Judge every claim by the table.

    Raises:
        KeyError: if a claim names a figure that is no column.
    """
    by_title = {column.title: column for column in columns}
    return [
        judge(claim, difference_of(frame, claim, by_title[claim.figure], differences))
        for claim in claims
    ]
