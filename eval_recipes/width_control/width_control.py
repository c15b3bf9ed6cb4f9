"""Regularised SAEs against unregularised ones of equal width, of full width, at equal loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from eval_recipes.cross_seed.intervals import FEW_SEEDS, FEWEST_SEEDS, over_pairs
from eval_recipes.cross_seed.pairs import PAIR_METRICS
from eval_recipes.results.tidy import one_line
from eval_recipes.statistics.interval import OVER_SEEDS, Interval
from eval_recipes.statistics.seeds import SeedPair, paired_difference
from eval_recipes.tables.run_table import Figure, digits
from eval_recipes.width_control.comparison import Comparison, Z
from eval_recipes.width_control.controls import (
    family_of,
    matched_control,
    warn_of_controls_without_group,
    wide_control,
)
from eval_recipes.width_control.equal_variance import at_equal_variance
from eval_recipes.width_control.result_groups import SINGLE, ResultGroup, read_groups
from saereg_plugin.files import write_json

SHOWN = ("shared", "shared_alive", "mean_max_cos", "fraction_paired", *SINGLE)
"""What the table shows; the file holds all."""

OTHER_SEEDS = (
    "the groups have different seeds: errors over latents are known for all pairs of a group "
    "only, not for those that both have"
)


def compare_widths(folder: Path) -> list[Comparison]:
    """
    Compare every regularised group below a results folder with its controls.

    The matched control is the group whose release says so (``matched_to``); the wide one
    is unregularised, of the same configuration and width. Runs into one folder may be
    several: a figure needs the results alone. A control whose group is not there is logged.

    Raises:
        InputError: see ``read_groups``; if a group has several controls of one kind.
    """
    groups = read_groups(folder)
    warn_of_controls_without_group(groups)
    found: list[Comparison] = []
    for group in groups:
        if not group.role.regularised:
            continue
        wide, matched = wide_control(group, groups), matched_control(group, groups)
        if matched is not None:
            found += _compare("regularised - matched", group, matched)
            family = family_of(group, groups, wide)
            found += [
                at_equal_variance(group, family, matched, m) for m in PAIR_METRICS
            ]
        if wide is not None:
            found += _compare("regularised - wide", group, wide)
        if matched is not None and wide is not None:
            found += _compare("matched - wide", matched, wide)
    return found


def _compare(kind: str, group: ResultGroup, other: ResultGroup) -> list[Comparison]:
    rows: list[Comparison] = []
    common = sorted(set(group.pairs) & set(other.pairs))
    for metric in PAIR_METRICS:
        a, b = (_defined(side, common, metric) for side in (group, other))
        if not common or not len(a) == len(b) == len(common):
            continue
        values = {pair: a[pair] - b[pair] for pair in common}
        interval, over = over_pairs(values), "seed pairs"
        if len({seed for pair in common for seed in pair}) < FEWEST_SEEDS:
            interval, over = _independent(interval, group, other, metric), "latents"
        rows.append(_row(kind, group, other, metric, interval, over, values))
    for metric in SINGLE:
        seeds = sorted(set(group.single[metric]) & set(other.single[metric]))
        if len(seeds) < 2:
            continue
        sides = [{s: side.single[metric][s] for s in seeds} for side in (group, other)]
        interval = paired_difference(sides[0], sides[1])
        values = {(s,): sides[0][s] - sides[1][s] for s in seeds}
        rows.append(_row(kind, group, other, metric, interval, "seeds", values))
    return rows


def _defined(
    group: ResultGroup, pairs: Sequence[SeedPair], metric: str
) -> dict[SeedPair, float]:
    found = {pair: group.pairs[pair][metric] for pair in pairs}
    return {pair: value for pair, value in found.items() if value is not None}


def _independent(
    difference: Interval, group: ResultGroup, other: ResultGroup, metric: str
) -> Interval:
    """Return an interval from both groups' standard errors over latents, if there can be one."""
    if group.seeds != other.seeds:
        return difference._replace(reason=OTHER_SEEDS)
    a, b = group.metric(metric), other.metric(metric)
    if a is None or b is None or a.error is None or b.error is None:
        return difference._replace(reason="no interval over latents in a group")
    half = Z * math.hypot(a.error, b.error)
    value, n = difference.value, group.n_latents(metric) + other.n_latents(metric)
    return Interval(value, value - half, value + half, n, FEW_SEEDS)


def _row(
    kind: str,
    group: ResultGroup,
    other: ResultGroup,
    metric: str,
    interval: Interval,
    over: str,
    values: Mapping[tuple[int, ...], float],
) -> Comparison:
    return Comparison(
        kind=kind,
        group=group.role.name,
        other=other.role.name,
        metric=metric,
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        interval_over=None if interval.low is None else over,
        n=interval.n,
        values=values,
        reason=interval.reason,
    )


def write_comparisons(comparisons: Sequence[Comparison], target: Path) -> Path:
    """Write every comparison, with the value of every seed or pair of seeds, as strict JSON."""
    write_json(target, [found.to_dict() for found in comparisons])
    return target


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """
    Return the comparisons in the metrics of ``SHOWN``, one row each.

    The values by seed or pair stand where the interval is not over seeds or pairs.
    """
    table = Table(
        title="Width-matched control \\[95 % interval]",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    columns = ("comparison", "groups", "metric", "difference", "interval over", "each")
    for name in columns:
        table.add_column(name, overflow="fold")
    for item in comparisons:
        if item.metric in SHOWN:
            figure = (
                item.reason or "-"
                if item.difference is None
                else Figure(item.difference, item.low, item.high).text()
            )
            groups = escape(one_line(f"{item.group} - {item.other}") or "")
            over = f"{item.n} {item.interval_over}" if item.interval_over else "-"
            each = (
                "-"
                if item.interval_over in OVER_SEEDS
                else ", ".join(map(digits, item.values.values()))
            )
            table.add_row(item.kind, groups, item.metric, figure, over, each)
    return table
