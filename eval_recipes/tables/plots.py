"""Plots of metrics against L0 with Pareto fronts: PNG and interactive page."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from eval_recipes.results.headlines import L0, Metric, choose
from eval_recipes.results.outdated import DAGGER, FOOTNOTE
from eval_recipes.results.tidy import one_line
from eval_recipes.tables.table import KIND, kind_label, points, results_frame
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path, write_text
from saereg_plugin.owned_folder import open_owned

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#999999",
)
"""Colours that stay apart for most colour-blind readers (Okabe and Ito)."""

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
    results: str | Path | pd.DataFrame,
    metrics: Iterable[str] = (),
    *,
    interactive: bool = False,
) -> Any:
    """
    Return metrics against L0, with the Pareto front of each architecture and penalty.

    Writes nothing. Example::

        import eval_recipes

        figure = eval_recipes.plot_pareto("results")
        figure.savefig("pareto.png")

    Args:
        results: a folder of results, or what ``load_results`` returned.
        metrics: names as in ``saereg-bench table --metric``; by default the headlines.
        interactive: return a figure of plotly instead of matplotlib.

    Raises:
        InputError: if there is no result, no such metric, or no SAE with an L0.
    """
    frame = results_frame(results)
    drawn = points_by_metric(frame, choose(frame, metrics))
    return draw_page(drawn) if interactive else draw_picture(drawn)


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


def save_page(figure: Any, target: Path) -> Path:
    """Write a figure of plotly as one page that needs no network; return ``target``."""
    write_text(target, figure.to_html(include_plotlyjs=True, full_html=True))
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
    found = {metric: points(frame, metric) for metric in metrics}
    drawn = {metric: rows for metric, rows in found.items() if len(rows)}
    if not drawn:
        names = ", ".join(metric.title for metric in metrics)
        raise InputError(
            f"No SAE has both an L0 and {names}: L0 is read from core's results of the same "
            "release and SAE. Run the evaluation 'core' into the same folder."
        )
    return drawn


def draw_picture(drawn: Mapping[Metric, pd.DataFrame]) -> Picture:
    """Draw every metric against L0, with intervals where there are any."""
    n_rows, n_columns = _grid(len(drawn))
    figure = Picture(figsize=(6 * n_columns, 4.2 * n_rows), layout="constrained")
    kinds = _kinds(drawn)
    for number, (metric, rows) in enumerate(drawn.items()):
        axes = figure.add_subplot(n_rows, n_columns, number + 1)
        for label, points_ in _by_kind(rows):
            colour, marker = _style(kinds.index(label))
            axes.errorbar(
                points_["l0"],
                points_["value"],
                yerr=_bars(points_),
                fmt=_MARKERS[marker],
                color=colour,
                alpha=0.7,
                label=label_text(label),
            )
            front = points_[points_["front"]]
            axes.plot(front["l0"], front["value"], "-", color=colour)
            for _, row in points_[points_["outdated"]].iterrows():
                axes.annotate(DAGGER, (row["l0"], row["value"]), fontsize="x-large")
        if _is_wide(rows):
            axes.set_xscale("log")
        axes.set_xlabel(L0.title)
        axes.set_ylabel(label_text(_title(metric)))
        axes.grid(alpha=0.3)
        if number == 0:
            axes.legend(fontsize="small")
    if _any_outdated(drawn):
        figure.supxlabel(FOOTNOTE, fontsize="small")
    return figure


def draw_page(drawn: Mapping[Metric, pd.DataFrame]) -> Any:
    """Draw the same with plotly, to be looked at closely."""
    # takes a second to import
    import plotly.express as px

    n_rows, n_columns = _grid(len(drawn))
    # two evaluations may give one title to their metrics
    titles = {metric.full_name: _title(metric) for metric in drawn}
    points_ = pd.concat([_page_rows(*item) for item in drawn.items()])
    shared: dict[str, Any] = {
        "x": "l0",
        "y": "value",
        "color": "kind",
        "facet_col": "metric",
        "facet_col_wrap": n_columns,
        "category_orders": {"kind": _kinds(drawn), "metric": [*titles]},
        "color_discrete_sequence": COLOURS,
    }
    figure: Any = px.line(points_[points_["front"]], **shared)
    figure.update_traces(showlegend=False, hoverinfo="skip", hovertemplate=None)
    dots: Any = px.scatter(
        points_,
        **shared,
        error_y="above",
        error_y_minus="below",
        hover_name="name",
        render_mode="svg",
    )
    dots.update_traces(
        marker={"size": 9, "opacity": 0.7},
        hovertemplate="%{hovertext}<br>L0 %{x:.4g}<br>%{y:.4g}<extra></extra>",
    )
    figure.add_traces(dots.data)
    figure.for_each_annotation(
        lambda it: it.update(text=titles[it.text.partition("=")[2]])
    )
    figure.update_yaxes(matches=None, showticklabels=True, title_text=None)
    figure.update_xaxes(matches=None, showticklabels=True, title_text=L0.title)
    for number, rows in enumerate(drawn.values()):
        # rows of facets count from the bottom
        place = {"row": n_rows - number // n_columns, "col": number % n_columns + 1}
        figure.update_xaxes(type="log" if _is_wide(rows) else "linear", **place)
    figure.update_layout(template="plotly_white", height=420 * n_rows, legend_title="")
    if _any_outdated(drawn):
        figure.update_layout(title=FOOTNOTE)
    return figure


def _page_rows(metric: Metric, rows: pd.DataFrame) -> pd.DataFrame:
    """Return a metric's points with what the page shows of each."""
    below, above = _bars(rows) or (float("nan"), float("nan"))
    marks = [DAGGER if outdated else "" for outdated in rows["outdated"]]
    kinds = zip(*(rows[name] for name in KIND))
    return rows.assign(
        metric=metric.full_name,
        kind=[kind_label(*kind) for kind in kinds],
        below=below,
        above=above,
        name=rows["release"] + "<br>" + rows["sae_id"] + marks,
    )


def _any_outdated(drawn: Mapping[Metric, pd.DataFrame]) -> bool:
    return any(bool(rows["outdated"].to_numpy().any()) for rows in drawn.values())


def _grid(n: int) -> tuple[int, int]:
    columns = min(n, _COLUMNS)
    return -(-n // columns), columns


def _kinds(drawn: Mapping[Metric, pd.DataFrame]) -> list[str]:
    """Return the labels in one order, so that each has one colour throughout."""
    return sorted({label for rows in drawn.values() for label, _ in _by_kind(rows)})


def _by_kind(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    groups: Any = rows.groupby(KIND, dropna=False)
    return [(kind_label(*key), group) for key, group in groups]


def _style(index: int) -> tuple[str, int]:
    return COLOURS[index % len(COLOURS)], index % len(_MARKERS)


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
