"""Figures of groups and judged claims, from a tidy table of results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from eval_recipes.cross_seed.groups import SEEDS_DEPEND
from eval_recipes.cross_seed.pairs import PAIR_METRICS
from eval_recipes.results.differences import (
    Difference,
    GroupDifference,
    group_minus_other,
)
from eval_recipes.results.headlines import Metric
from eval_recipes.statistics.seeds import Interval, seed_interval
from eval_recipes.studies.framework.definition import Column
from eval_recipes.studies.framework.verdicts import (
    Beside,
    Claim,
    Verdict,
    holm_corrected,
    judge,
)
from eval_recipes.tables.run_table import group_figure

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
    found = group_figure(rows, Metric(*column.key, column.title))
    if found is None:
        return None
    reason = None if found.low is not None else _why_none(column, values)
    return found._replace(n=len(values), reason=reason)


def _why_none(column: Column, values: dict[int, float]) -> str:
    """Return why the cross-seed evaluation gives a group's figure no interval."""
    if column.metric.rsplit("/", 1)[-1] in (*PAIR_METRICS, "unstable_overlap"):
        return "few seeds: pairs have no interval"
    # of single SAEs: none if there is one seed, or they are all equal, or share their pairs
    return seed_interval(values).reason or SEEDS_DEPEND


def difference_of(
    frame: pd.DataFrame,
    claim: Claim,
    column: Column,
    differences: Iterable[GroupDifference],
) -> Difference | None:
    """
    Return ``group - other`` of a claim, paired by the seeds that both have.

    None if either lacks the figure or they have no seed in common.
    """
    if column.eval == CROSS_SEED:
        return _cross_seed_difference(claim, column, differences)
    return group_minus_other(
        values_of(frame, claim.group, column), values_of(frame, claim.other, column)
    )


def _cross_seed_difference(
    claim: Claim, column: Column, differences: Iterable[GroupDifference]
) -> Difference | None:
    """
    Return the difference as the evaluation gives it, without an interval over latents.

    An interval over latents does not generalise to other seeds, so it decides nothing here.
    """
    name = column.metric.rsplit("/", 1)[-1]
    pair = {claim.group, claim.other}
    for item in differences:
        if item.metric != name or {item.group, item.other} != pair:
            continue
        found = item if item.group == claim.group else item.reversed()
        if found.decidable:
            low, high, reason = found.ci_low, found.ci_high, None
        else:
            low = high = None
            reason = found.reason or "there is none over seeds or pairs of seeds"
        n = len(found.values)
        interval = Interval(found.difference, low, high, n, reason)
        return Difference(interval, found.values)
    return None


def judge_all(
    frame: pd.DataFrame,
    claims: Sequence[Claim],
    columns: Sequence[Column],
    differences: Sequence[GroupDifference] = (),
) -> list[Verdict]:
    """
    Judge every claim by the table, p-values corrected (Holm) over those that have one.

    Raises:
        KeyError: if a claim names a figure that is no column.
    """
    by_title = {column.title: column for column in columns}
    verdicts: list[Verdict] = []
    for claim in claims:
        found = difference_of(frame, claim, by_title[claim.figure], differences)
        if found is None:
            verdicts.append(judge(claim, None))
            continue
        beside = None
        if claim.beside is not None:
            beside = _beside(frame, claim, by_title[claim.beside], differences)
        verdicts.append(
            judge(
                claim,
                found.interval,
                values=found.values,
                beside=beside,
                p=found.p_value(claim.bound),
            )
        )
    return holm_corrected(verdicts)


def _beside(
    frame: pd.DataFrame,
    claim: Claim,
    column: Column,
    differences: Sequence[GroupDifference],
) -> Beside | None:
    """Return a figure that should be equal in both groups; None if either lacks it."""
    found = difference_of(frame, claim, column, differences)
    group, other = (
        figure_of(frame, name, column) for name in (claim.group, claim.other)
    )
    if found is None or group is None or other is None:
        return None
    return Beside(column.title, group.value, other.value, found.interval)
