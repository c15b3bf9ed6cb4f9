"""Plots of success against fluency loss and strength, from result files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from eval_recipes.results.tidy import frame_of
from eval_recipes.steering.stats.compare import steering_results
from eval_recipes.tables.colours import colour_of, folder_colours, sae_colours
from eval_recipes.tables.plots import Picture, label_text


def plot_steering(results: str | Path) -> Picture:
    """
    Draw the steering results below ``results``; writes nothing.

    One row per judge. Left: success against the mean fluency loss, a point per strength, with
    intervals over latents. Right: success, fluent success and random directions against
    strength over the median residual norm. One line per SAE, judged by its own threshold, and
    one colour per group.

    Raises:
        InputError: if there is no steering result.
    """
    folder = Path(results)
    records = [record for _, record in steering_results(folder)]
    return draw(records, folder_colours(folder))


def draw(
    records: Sequence[dict[str, Any]],
    colours: Mapping[tuple[str, str], str] | None = None,
) -> Picture:
    """
    Draw results, one row of two axes per judge.

    ``colours`` are those of all groups of the folder; by default of the records' groups.
    """
    by_sae = sae_colours(frame_of(records)) if colours is None else colours
    of_groups = {(_group(record), colour_of(by_sae, record)) for record in records}
    details = [point for record in records for point in record["eval_result_details"]]
    judges = list(dict.fromkeys(point["judge"] for point in details))
    figure = Picture(figsize=(12, 4.2 * len(judges)), layout="constrained")
    for row, judge in enumerate(judges):
        left = figure.add_subplot(len(judges), 2, 2 * row + 1)
        right = figure.add_subplot(len(judges), 2, 2 * row + 2)
        for record in records:
            points = [
                point
                for point in record["eval_result_details"]
                if point["judge"] == judge and point["success"] is not None
            ]
            points.sort(key=lambda point: point["strength"])
            colour = colour_of(by_sae, record)
            if points:
                _against_loss(left, points, colour)
                _against_ratio(right, points, colour)
        for group, colour in sorted(of_groups):
            left.plot([], [], color=colour, label=label_text(group))
        styles = {"-": "success", "--": "fluent", ":": "random direction"}
        for style, name in styles.items():
            right.plot([], [], style, color="grey", label=name)
        _dress(left, "fluency loss (nats a token)", f"success, {judge}")
        _dress(right, "strength / median residual norm", f"success, {judge}")
    return figure


def _group(record: dict[str, Any]) -> str:
    return str(record["eval_result_unstructured"]["saereg"]["group"])


def _against_loss(axes: Axes, points: list[dict[str, Any]], colour: str) -> None:
    known = [point for point in points if point["loss"] is not None]
    below = [_length(point, "success_ci_low") for point in known]
    above = [_length(point, "success_ci_high") for point in known]
    axes.errorbar(
        [point["loss"] for point in known],
        [point["success"] for point in known],
        yerr=(below, above),
        fmt="o-",
        color=colour,
        alpha=0.7,
    )


def _length(point: dict[str, Any], end: str) -> float:
    """Return the length of an interval's arm; 0 where there is none."""
    value = point[end]
    return 0.0 if value is None else max(0.0, abs(value - point["success"]))


def _against_ratio(axes: Axes, points: list[dict[str, Any]], colour: str) -> None:
    lines = {"success": "o-", "success_fluent": "s--", "random": "x:"}
    for name, style in lines.items():
        known = [point for point in points if point[name] is not None]
        axes.plot(
            [point["ratio"] for point in known],
            [point[name] for point in known],
            style,
            color=colour,
            alpha=0.7,
        )


def _dress(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
