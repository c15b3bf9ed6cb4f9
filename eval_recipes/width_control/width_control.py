"""Comparison of regularised groups with unregularised and width-matched controls."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from eval_recipes.cross_seed.metrics import PAIR_METRICS
from eval_recipes.results.differences import Difference, group_minus_other
from eval_recipes.results.tidy import one_line
from eval_recipes.statistics.interval import OVER_SEEDS, Interval
from eval_recipes.statistics.seeds import FEW_SEEDS, FEWEST_SEEDS, SeedPair
from eval_recipes.tables.run_table import plain_table
from eval_recipes.tables.table import NONE, cell, digits
from eval_recipes.width_control.equal_variance import at_equal_variance
from eval_recipes.width_control.result_groups import (
    SINGLE,
    Comparison,
    ResultGroup,
    Z,
    interval_fields,
    read_groups,
)
from saereg_plugin.errors import InputError
from saereg_plugin.files import write_json

logger = logging.getLogger(__name__)

SHOWN = ("shared", "shared_alive", "mean_max_cos", "fraction_paired", *SINGLE)
"""Metrics of the table; the file has all."""

OTHER_SEEDS = (
    "the groups have different seeds: errors over latents are known for all pairs of a group "
    "only, not for those that both have"
)


def compare_widths(folder: Path, *, without: Collection[Path] = ()) -> list[Comparison]:
    """
    Compare every regularised group below a results folder with its controls.

    The matched control is named by its release (``matched_to``); the wide control is
    unregularised, of the same configuration and width. The folder may hold several runs. A
    control without its group is logged. Files ``without`` are left out.

    Raises:
        InputError: see ``read_groups``; if a group has several controls of one kind.
    """
    groups = read_groups(folder, without=without)
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

    def add(metric: str, found: Difference, over: str) -> None:
        rows.append(
            Comparison(
                kind=kind,
                group=group.role.name,
                other=other.role.name,
                metric=metric,
                values=dict(found.values),
                **interval_fields(found.interval, over),
            )
        )

    common = sorted(set(group.pairs) & set(other.pairs))
    for metric in PAIR_METRICS:
        a, b = (_defined(side, common, metric) for side in (group, other))
        found = group_minus_other(a, b)
        if found is None or not len(a) == len(b) == len(common):
            continue
        if len({seed for pair in common for seed in pair}) >= FEWEST_SEEDS:
            add(metric, found, "seed pairs")
        else:
            interval = _independent(found.interval, group, other, metric)
            add(metric, found._replace(interval=interval), "latents")
    for metric in SINGLE:
        found = group_minus_other(group.single[metric], other.single[metric])
        if found is not None and len(found.values) >= 2:
            add(metric, found, "seeds")
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


def write_comparisons(comparisons: Sequence[Comparison], target: Path) -> Path:
    """Write every comparison, with the value of every seed or pair of seeds, as strict JSON."""
    write_json(target, [found.to_dict() for found in comparisons])
    return target


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """
    Return the comparisons in the metrics of ``SHOWN``, one row each.

    The values by seed or pair follow where the interval is not over seeds or pairs.
    """
    table = plain_table("Width-matched control \\[95 % interval]")
    for name in (
        "comparison",
        "groups",
        "metric",
        "difference",
        "interval over",
        "each",
    ):
        table.add_column(name, overflow="fold")
    for item in comparisons:
        if item.metric in SHOWN:
            figure = (
                item.reason or NONE
                if item.difference is None
                else cell(Interval(item.difference, item.low, item.high, item.n))
            )
            groups = escape(one_line(f"{item.group} - {item.other}") or "")
            over = f"{item.n} {item.interval_over}" if item.interval_over else NONE
            each = (
                NONE
                if item.interval_over in OVER_SEEDS
                else ", ".join(map(digits, item.values.values()))
            )
            table.add_row(item.kind, groups, item.metric, figure, over, each)
    return table


def wide_control(
    group: ResultGroup, groups: Sequence[ResultGroup]
) -> ResultGroup | None:
    """
    Return the unregularised group of the same configuration and width.

    Of a group with a regulariser that is one with all its mechanics; of one that only decays
    its weights one without that. Of several the one of the same release, which shares its data.

    Raises:
        InputError: if several are left.
    """
    role = group.role
    base = role.undecayed if role.decays_only else role.base
    found = [
        other
        for other in groups
        if other.role.coefficient == 0
        and other.role.matched_to is None
        and (other.role.base, other.role.d_sae) == (base, role.d_sae)
    ]
    release = group.role.name.removesuffix(group.group)
    own = [other for other in found if other.role.name.startswith(release)]
    return _only_one(own or found, group, "unregularised groups of its width")


def matched_control(
    group: ResultGroup, groups: Sequence[ResultGroup]
) -> ResultGroup | None:
    """
    Return the group with this group's alive count as width, by its release.

    Raises:
        InputError: if several say so.
    """
    found = [other for other in groups if other.role.matched_to == group.role.name]
    return _only_one(found, group, "width-matched controls")


def _only_one(
    found: Sequence[ResultGroup], group: ResultGroup, what: str
) -> ResultGroup | None:
    if len(found) > 1:
        names = ", ".join(repr(other.role.name) for other in found)
        raise InputError(
            f"Group {group.role.name!r} has several {what}: {names}; expected one. Evaluate "
            "each with the group into a folder of its own."
        )
    return found[0] if found else None


def family_of(
    group: ResultGroup, groups: Sequence[ResultGroup], wide: ResultGroup | None
) -> list[ResultGroup]:
    """
    Return the groups that differ from this one in the coefficient only, 0 among them.

    In the order of the coefficient. Of several with one coefficient the one of the same
    release.

    Raises:
        InputError: if several of one coefficient are left.
    """
    role = group.role
    release = role.name.removesuffix(group.group)
    by_coefficient: dict[float, list[ResultGroup]] = {}
    for other in groups:
        key = (other.role.base, other.role.d_sae, other.role.penalty)
        if other.role.coefficient and key == (role.base, role.d_sae, role.penalty):
            by_coefficient.setdefault(other.role.coefficient, []).append(other)
    family: dict[float, ResultGroup] = {}
    for coefficient, found in by_coefficient.items():
        own = [other for other in found if other.role.name.startswith(release)]
        what = f"groups with the coefficient {coefficient:g} in its family"
        one = _only_one(own or found, group, what)
        if one is not None:
            family[coefficient] = one
    if role.coefficient:
        family[role.coefficient] = group
    if wide is not None:
        family[0.0] = wide
    return [family[coefficient] for coefficient in sorted(family)]


def warn_of_controls_without_group(groups: Sequence[ResultGroup]) -> None:
    """Log a warning for each control without its regularised group in the results."""
    names = {group.role.name for group in groups}
    for group in groups:
        target = group.role.matched_to
        if target is not None and target not in names:
            logger.warning(
                "Group %r is the width-matched control of %r, of which there is no result here: "
                "it is compared with nothing. Evaluate that group into the same folder; if its "
                "release was renamed, correct 'matched_to' in the control's release.yaml and "
                "evaluate the control again.",
                group.role.name,
                target,
            )
