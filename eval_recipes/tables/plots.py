"""Plots of metrics: against L0 with Pareto fronts, or by group."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval_recipes.results.headlines import L0, Metric, choose
from eval_recipes.results.outdated import DAGGER, FOOTNOTE
from eval_recipes.results.tidy import one_line
from eval_recipes.tables.colours import group_colours
from eval_recipes.tables.dots import draw_dots, with_group_means
from eval_recipes.tables.table import (
    KIND,
    has_one_l0,
    kind_label,
    points,
    results_frame,
)
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path
from saereg_plugin.owned_folder import open_owned

PLOTS = "plots"
"""Kind of a folder of plots in its mark."""

_MARKERS = "osD^vPX*"
_COLUMNS = 2


class Picture(Figure):
    """A figure of matplotlib that a notebook shows, with and without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def plot_pareto(
    results: str | Path | pd.DataFrame, metrics: Iterable[str] = ()
) -> Picture:
    """
    Return metrics against L0, with the Pareto front of each architecture and penalty.

    Where all SAEs have nearly one L0, a metric is drawn by group: the SAEs as faint dots,
    their mean, and its 95 % interval from three seeds on. Writes nothing. Example::

        import eval_recipes

        figure = eval_recipes.plot_pareto("results")
        figure.savefig("pareto.png")

    Args:
        results: a folder of results, or what ``load_results`` returned.
        metrics: names as in ``saereg-bench table --metric``; by default the headlines.

    Raises:
        InputError: if there is no result, no such metric, or no SAE with an L0.
    """
    frame = results_frame(results)
    return draw_picture(points_by_metric(frame, choose(frame, metrics)))


def open_plots(folder: Path, names: Iterable[str]) -> Path:
    """
    Return a folder for plots, its files claimed.

    Raises:
        InputError: if it holds something else, or a file of such a name that is not ours.
    """
    open_owned(folder, PLOTS).claim(names)
    return folder


def save_png(figure: Figure, target: Path, *, dpi: int = 150) -> Path:
    """Write a figure as PNG, whole or not at all; return ``target``."""
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)
    return target


def label_text(name: str) -> str:
    """Return a name as matplotlib shows it: not as a formula, nor left out of the legend."""
    text = (one_line(name) or "").replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def points_by_metric(
    frame: pd.DataFrame, metrics: Sequence[Metric]
) -> dict[Metric, pd.DataFrame]:
    """
    Return the points of each metric that can be drawn.

    Raises:
        InputError: if no SAE has both a metric and an L0.
    """
    found = {
        metric: with_group_means(frame, metric, points(frame, metric))
        for metric in metrics
    }
    drawn = {metric: rows for metric, rows in found.items() if len(rows)}
    if not drawn:
        names = ", ".join(metric.title for metric in metrics)
        raise InputError(
            f"No SAE has both an L0 and {names}: L0 is read from core's results of the same "
            "release and SAE. Run the evaluation 'core' into the same folder."
        )
    return drawn


def draw_picture(drawn: Mapping[Metric, pd.DataFrame]) -> Picture:
    """
    Draw every metric: against L0, or as dots by group where all SAEs have nearly one L0.
    """
    n_rows, n_columns = _grid(len(drawn))
    figure = Picture(figsize=(6 * n_columns, 4.2 * n_rows), layout="constrained")
    colours = _kind_colours(drawn)
    for number, (metric, rows) in enumerate(drawn.items()):
        axes = figure.add_subplot(n_rows, n_columns, number + 1)
        if has_one_l0(rows):
            draw_dots(axes, rows, label_text(_title(metric)))
            continue
        _draw_against_l0(axes, rows, colours)
        axes.set_xlabel(L0.title)
        axes.set_ylabel(label_text(_title(metric)))
        axes.grid(alpha=0.3)
        if number == 0:
            axes.legend(fontsize="small")
    if _any_outdated(drawn):
        figure.supxlabel(FOOTNOTE, fontsize="small")
    return figure


def _draw_against_l0(
    axes: Axes, rows: pd.DataFrame, colours: Mapping[str, str]
) -> None:
    """Draw points with intervals where there are any, and the front of each kind."""
    kinds = [*colours]
    for label, points_ in _by_kind(rows):
        axes.errorbar(
            points_["l0"],
            points_["value"],
            yerr=_bars(points_),
            fmt=_MARKERS[kinds.index(label) % len(_MARKERS)],
            color=colours[label],
            alpha=0.7,
            label=label_text(label),
        )
        front = points_[points_["front"]]
        axes.plot(front["l0"], front["value"], "-", color=colours[label])
        for _, row in points_[points_["outdated"]].iterrows():
            axes.annotate(DAGGER, (row["l0"], row["value"]), fontsize="x-large")
    if _is_wide(rows):
        axes.set_xscale("log")


def _any_outdated(drawn: Mapping[Metric, pd.DataFrame]) -> bool:
    return any(bool(rows["outdated"].to_numpy().any()) for rows in drawn.values())


def _grid(n: int) -> tuple[int, int]:
    columns = min(n, _COLUMNS)
    return -(-n // columns), columns


def _kind_colours(drawn: Mapping[Metric, pd.DataFrame]) -> dict[str, str]:
    """Return a colour per kind: its group's, where every kind is one group."""
    found = {
        (label, str(group), str(colour))
        for rows in drawn.values()
        for label, points_ in _by_kind(rows)
        for group, colour in zip(points_["row"], points_["colour"])
    }
    kinds, groups = ({one[i] for one in found} for i in (0, 1))
    if not len(kinds) == len(groups) == len(found):
        return group_colours(kinds)
    return {kind: colour for kind, _, colour in sorted(found)}


def _by_kind(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    groups: Any = rows.groupby(KIND, dropna=False)
    return [(kind_label(*key), group) for key, group in groups]


def _bars(rows: pd.DataFrame) -> tuple[list[float], list[float]] | None:
    """Return the lengths of the intervals below and above; 0 where there is none."""
    if not rows["low"].notna().to_numpy().any():
        return None
    below = (rows["value"] - rows["low"]).clip(lower=0).fillna(0)
    above = (rows["high"] - rows["value"]).clip(lower=0).fillna(0)
    return below.tolist(), above.tolist()


def _is_wide(rows: pd.DataFrame) -> bool:
    low, high = float(rows["l0"].min()), float(rows["l0"].max())
    return bool(low > 0 and high / low > 8)


def _title(metric: Metric) -> str:
    return metric.title + ("" if metric.higher_is_better else " (lower is better)")
