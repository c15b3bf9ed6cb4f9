"""Dot plots by group, where all SAEs have nearly one L0."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from eval_recipes.results.headlines import L0, Metric
from eval_recipes.results.outdated import DAGGER
from eval_recipes.statistics.interval import Interval
from eval_recipes.tables.colours import sae_colours, sae_key
from eval_recipes.tables.run_table import group_figure
from eval_recipes.tables.table import KIND, SAE, digits, kind_label

_FEWEST = 3
"""Seeds from which a mean has an interval in a plot; that of two is as wide as the plot."""


def with_group_means(
    frame: pd.DataFrame, metric: Metric, rows: pd.DataFrame
) -> pd.DataFrame:
    """
    Return points with ``row``, ``colour``, ``mean``, ``mean_low``, ``mean_high`` of their group.

    ``row`` is the group, with its release where there are several, or the kind of an SAE
    without a group. ``colour`` is that of the group in all plots of ``frame``. The interval is
    over seeds, NaN with fewer than three.

    Args:
        frame: tidy table of the results.
        metric: what the points show.
        rows: ``points`` of the metric.
    """
    parts: list[pd.DataFrame] = []
    groups: Any = rows.groupby(["release", "group", *KIND], dropna=False, sort=False)
    for (release, group, *kind), points in groups:
        figure = Interval(float(points["value"].mean()), None, None, len(points))
        name = kind_label(*kind)
        if not pd.isna(group):
            mine = (frame["release"] == release) & (frame["group"] == group)
            figure, name = group_figure(frame.loc[mine], metric) or figure, str(group)
        if rows["release"].nunique() > 1:
            name = f"{release}/{name}"
        ends = (figure.low, figure.high) if len(points) >= _FEWEST else (None, None)
        named = points.assign(row=name, mean=figure.value)
        parts.append(
            named.assign(mean_low=_number(ends[0]), mean_high=_number(ends[1]))
        )
    found = pd.concat(parts) if parts else rows
    colours = sae_colours(frame)
    keys = found[SAE].itertuples(index=False, name=None)
    return found.assign(colour=[colours[sae_key(*key)] for key in keys])


def draw_dots(axes: Axes, rows: pd.DataFrame, title: str) -> None:
    """
    Draw one row per group: its SAEs as faint dots, their mean and its interval.

    ``rows`` are those of ``with_group_means``; ``title`` names the metric.
    """
    names = sorted(set(rows["row"]))
    for place, name in enumerate(names):
        mine: Any = rows[rows["row"] == name]
        colour = mine["colour"].iloc[0]
        axes.plot(mine["value"], [place] * len(mine), "o", alpha=0.35, color=colour)
        mean, low, high = mine[[*_MEAN]].iloc[0].astype(float)
        axes.plot([low, high], [place, place], "-", linewidth=2, color=colour)
        axes.plot([mean], [place], "D", markersize=7, color=colour)
        for value in mine.loc[mine["outdated"], "value"]:
            axes.annotate(DAGGER, (float(value), place), fontsize="x-large")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.set_xlabel(title)
    l0 = digits(float(rows["l0"].mean()))
    interval = (
        " with 95 % interval" if rows["mean_low"].notna().to_numpy().any() else ""
    )
    axes.set_title(f"{L0.title} {l0}: SAEs and mean{interval}", fontsize="medium")
    axes.grid(alpha=0.3, axis="x")


_MEAN = ("mean", "mean_low", "mean_high")


def _number(end: float | None) -> float:
    return float("nan") if end is None else end
