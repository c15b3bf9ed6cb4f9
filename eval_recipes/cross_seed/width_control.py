"""Regularised SAEs against unregularised ones of equal width, of full width, at equal loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from eval_recipes.cross_seed.comparison import Comparison, Z
from eval_recipes.cross_seed.equal_variance import at_equal_variance
from eval_recipes.cross_seed.intervals import FEWEST_SEEDS
from eval_recipes.cross_seed.pairs import PAIR_METRICS
from eval_recipes.cross_seed.result_groups import SINGLE, ResultGroup, read_groups
from eval_recipes.report import Figure
from eval_recipes.statistics import (
    Interval,
    SeedPair,
    paired_difference,
    paired_pair_difference,
)
from saereg_plugin.files import write_json

SHOWN = ("shared", "shared_alive", "mean_max_cos", "fraction_paired", *SINGLE)
"""What the table shows; the file holds all."""


def compare_widths(folder: Path) -> list[Comparison]:
    """
    Compare every regularised group below a results folder with its controls.

    The matched control is the group whose release says so (``matched_to``); the wide one
    is unregularised, of the same configuration and width. Runs into one folder may be
    several: a figure needs the results alone.

    Raises:
        InputError: see ``read_groups``.
    """
    groups = read_groups(folder)
    found: list[Comparison] = []
    for group in groups:
        if not group.role.coefficient:
            continue
        wide, matched = _wide(group, groups), _matched(group, groups)
        if matched is not None:
            found += _compare("regularised - matched", group, matched)
            family = _family(group, groups)
            found += [at_equal_variance(family, matched, m) for m in PAIR_METRICS]
        if wide is not None:
            found += _compare("regularised - wide", group, wide)
        if matched is not None and wide is not None:
            found += _compare("matched - wide", matched, wide)
    return found


def _wide(group: ResultGroup, groups: Sequence[ResultGroup]) -> ResultGroup | None:
    """Return the unregularised group of the same configuration and width."""
    found = [
        other
        for other in groups
        if other.role.coefficient == 0
        and other.role.matched_to is None
        and (other.role.base, other.role.d_sae) == (group.role.base, group.role.d_sae)
    ]
    release = group.role.name.removesuffix(group.group)
    # of several the one of the same release, which shares its data
    found.sort(key=lambda other: not other.role.name.startswith(release))
    return found[0] if found else None


def _matched(group: ResultGroup, groups: Sequence[ResultGroup]) -> ResultGroup | None:
    for other in groups:
        if other.role.matched_to == group.role.name:
            return other
    return None


def _family(group: ResultGroup, groups: Sequence[ResultGroup]) -> list[ResultGroup]:
    """Return the groups that differ from this one in the coefficient only, 0 among them."""
    role = group.role
    own = role.coefficient or 0.0
    wide = _wide(group, groups)
    family = {
        other.role.coefficient: other
        for other in groups
        if other.role.coefficient
        and (other.role.base, other.role.d_sae, other.role.penalty)
        == (role.base, role.d_sae, role.penalty)
    } | {own: group}
    if wide is not None:
        family[0.0] = wide
    return [family[coefficient] for coefficient in sorted(family)]


def _compare(kind: str, group: ResultGroup, other: ResultGroup) -> list[Comparison]:
    rows: list[Comparison] = []
    common = sorted(set(group.pairs) & set(other.pairs))
    for metric in PAIR_METRICS:
        a, b = (_defined(side, common, metric) for side in (group, other))
        if not common or not len(a) == len(b) == len(common):
            continue
        values = {pair: a[pair] - b[pair] for pair in common}
        interval, over = paired_pair_difference(a, b), "seed pairs"
        if len({seed for pair in common for seed in pair}) < FEWEST_SEEDS:
            interval, over = _independent(interval.value, group, other, metric)
        rows.append(_row(kind, group, other, metric, interval, over, values))
    for metric in SINGLE:
        seeds = set(group.single[metric]) & set(other.single[metric])
        if len(seeds) < 2:
            continue
        sides = [{s: side.single[metric][s] for s in seeds} for side in (group, other)]
        interval = paired_difference(sides[0], sides[1])
        rows.append(_row(kind, group, other, metric, interval, "seeds", {}))
    return rows


def _defined(
    group: ResultGroup, pairs: Sequence[SeedPair], metric: str
) -> dict[SeedPair, float]:
    found = {pair: group.pairs[pair][metric] for pair in pairs}
    return {pair: value for pair, value in found.items() if value is not None}


def _independent(
    value: float, group: ResultGroup, other: ResultGroup, metric: str
) -> tuple[Interval, str]:
    """Return an interval from both groups' standard errors over latents."""
    a, b = group.metric(metric), other.metric(metric)
    n = len(group.pairs)
    if a is None or b is None or a.error is None or b.error is None:
        return Interval(value, None, None, n, "no interval over latents"), "latents"
    half = Z * math.hypot(a.error, b.error)
    return Interval(value, value - half, value + half, n), "latents"


def _row(
    kind: str,
    group: ResultGroup,
    other: ResultGroup,
    metric: str,
    interval: Interval,
    over: str,
    values: Mapping[SeedPair, float],
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
        values=values,
        reason=interval.reason,
    )


def write_comparisons(comparisons: Sequence[Comparison], target: Path) -> Path:
    """Write every comparison, with the value of every pair of seeds, as strict JSON."""
    write_json(target, [found.to_dict() for found in comparisons])
    return target


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Return the comparisons in the metrics of ``SHOWN``, one row each."""
    table = Table(
        title="Width-matched control \\[95 % interval]",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name in ("comparison", "groups", "metric", "difference", "interval over"):
        table.add_column(name, overflow="fold")
    for item in comparisons:
        if item.metric in SHOWN:
            figure = (
                item.reason or "-"
                if item.difference is None
                else Figure(item.difference, item.low, item.high).text()
            )
            groups = f"{item.group} - {item.other}".replace("[", "\\[")
            table.add_row(
                item.kind, groups, item.metric, figure, item.interval_over or "-"
            )
    return table
