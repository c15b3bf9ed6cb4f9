"""Groups by metric, chance, and the differences between groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from eval_recipes.cross_seed.metrics import OVERLAPS, PAIR_METRICS
from eval_recipes.report.cells import Cell, Column, PageTable, figure, table, text
from eval_recipes.report.meanings import meaning
from eval_recipes.report.source import Source, extra_of, mapping
from eval_recipes.results.differences import (
    GroupDifference,
    minus_plain,
    plain_groups,
)
from eval_recipes.results.headlines import (
    HEADLINE_DIFFERENCES,
    Metric,
    headline_metrics,
)
from eval_recipes.results.tidy import one_line
from eval_recipes.statistics.interval import Interval
from eval_recipes.tables.run_table import (
    are_seeds,
    mean_of_saes,
    over,
    read_differences,
    verdict,
)
from eval_recipes.tables.table import digits
from eval_recipes.width_control.width_control import (
    SHOWN,
    compare_widths,
)
from saereg_plugin.errors import InputError

_WIDTH = 7
"""Most metrics in one table."""

_PAIRS = "seed pairs"

RANDOM = "random dictionaries"


@dataclass(frozen=True)
class Verdicts:
    """Tables and sentences of the section on verdicts; ``trouble`` is what kept one away."""

    sentences: list[tuple[str, list[str]]]
    groups: list[PageTable]
    differences: PageTable | None
    widths: PageTable | None
    trouble: list[str]


@dataclass(frozen=True)
class GroupFigure:
    """A figure of a group, and over what its interval is."""

    interval: Interval
    over: str

    @property
    def of(self) -> str:
        """How many seeds, pairs of seeds or SAEs are behind the figure."""
        n = self.interval.n
        return f"{n} {self.over}" if n != 1 else f"1 {self.over.removesuffix('s')}"


def group_figure(frame: pd.DataFrame, group: str, metric: Metric) -> GroupFigure | None:
    """
    Return a group's mean of a metric with its 95 % interval.

    A figure that the evaluation gives for the whole group is taken as it is: it accounts for
    pairs that share a seed. The mean of SAEs that are not seeds has no interval.
    """
    mine = frame.loc[(frame["group"] == group) & (frame["eval"] == metric.eval)]
    own = mine.loc[(mine["metric"] == f"group/{metric.name}") & mine["value"].notna()]
    if len(own):
        over_pairs = metric.name in (*PAIR_METRICS, *OVERLAPS)
        return GroupFigure(row_interval(own.iloc[0]), _PAIRS if over_pairs else "seeds")
    found = mine.loc[(mine["metric"] == metric.metric) & mine["value"].notna()]
    if found.empty:
        return None
    return GroupFigure(mean_of_saes(found), "seeds" if are_seeds(found) else "SAEs")


def row_interval(row: Any) -> Interval:
    """Return the figure in one row of a tidy table."""
    low, high = (
        None if pd.isna(row[end]) else float(row[end]) for end in ("low", "high")
    )
    n = 0 if pd.isna(row["n"]) else int(row["n"])
    return Interval(float(row["value"]), low, high, n)


def read_verdicts(source: Source) -> Verdicts:
    """Return everything that the section on verdicts shows."""
    metrics = [m for m in headline_metrics(source.frame) if not is_chance(m)]
    parts = _parts(metrics)
    widths, trouble = _width_table(source)
    return Verdicts(
        sentences=_sentences(source),
        groups=[
            _group_table(source, part, number, len(parts))
            for number, part in enumerate(parts, start=1)
        ],
        differences=_difference_table(
            minus_plain(source.differences, plain_groups(source.frame))
        ),
        widths=widths,
        trouble=trouble,
    )


def _parts(metrics: Sequence[Metric]) -> list[Sequence[Metric]]:
    """Return the metrics in as few parts as possible, of about the same length."""
    count = -(-len(metrics) // _WIDTH)
    ends = [round(i * len(metrics) / max(count, 1)) for i in range(count + 1)]
    return [metrics[start:end] for start, end in zip(ends, ends[1:])]


def is_chance(metric: Metric) -> bool:
    """Return whether a headline is the chance level of another, which has a row of its own."""
    return metric.key in {(name, chance) for (name, _), chance in _CHANCE.items()}


def _sentences(source: Source) -> list[tuple[str, list[str]]]:
    """Return the sentences on each group against each plain one, with a heading."""
    plain = plain_groups(source.frame)
    pairs = {frozenset((item.group, item.other)): item for item in source.differences}
    found: list[tuple[str, list[str]]] = []
    for item in pairs.values():
        group, other = item.group, item.other
        if group in plain and other not in plain:
            group, other = other, group
        # two plain groups are controls of different widths, which nobody chose to compare
        if (other in plain and group not in plain) or not plain:
            sentences = read_differences(source.differences, group=group, other=other)
            if sentences:
                found.append((f"{group} minus {other}", sentences))
    return found


_CHANCE = {
    (
        "sparse_probing",
        "corrected/sae_top_1_accuracy",
    ): "corrected/random_top_1_accuracy",
}
"""What a random dictionary reaches, where its name is not ``baseline/<name>``."""


def _group_table(
    source: Source, metrics: Sequence[Metric], part: int, parts: int
) -> PageTable:
    heads = [Column("group"), *(_head(metric) for metric in metrics)]
    rows = [
        [
            _group_cell(source, group),
            *(_group_figure(source, group, m) for m in metrics),
        ]
        for group in source.groups
    ]
    chance = [_chance(source.frame, metric) for metric in metrics]
    if any(cell.is_number for cell in chance):
        first = text(RANDOM, note="what chance reaches")
        rows.append([first, *chance])
    which = f" ({part} of {parts})" if parts > 1 else ""
    caption = (
        f"Groups{which}: mean and 95 % interval over seeds, or over pairs of seeds from five seeds on; "
        "in small type, how many of them"
    )
    return table(f"groups-{part}", caption, heads, rows)


def _head(metric: Metric) -> Column:
    found = meaning(metric.eval, metric.metric)
    way = "" if metric.higher_is_better or metric.name == "l0" else " Lower is better."
    return Column(metric.title, f"{metric.full_name}: {found.sentence}{way}")


def _group_cell(source: Source, group: str) -> Cell:
    saes = source.of(group)
    note = "1 SAE" if len(saes) == 1 else f"{len(saes)} SAEs"
    control = matched_to(source, group)
    if control is not None:
        note += f", width-matched control of {control}"
    return text(group, group=group, note=note)


def matched_to(source: Source, group: str) -> str | None:
    """Return "release/group" whose alive count is the width of a group, if it is a control."""
    for sae, _, record in source.results("cross_seed"):
        if sae.group == group:
            return one_line(mapping(extra_of(record).get("role")).get("matched_to"))
    return None


def _group_figure(source: Source, group: str, metric: Metric) -> Cell:
    found = group_figure(source.frame, group, metric)
    if found is None:
        return text(None)
    note = behind(source, group, metric, found)
    return figure(found.interval, note=note, title=found.interval.reason or "")


def behind(source: Source, group: str, metric: Metric, found: GroupFigure) -> str:
    """Return what is behind a figure, and every pair of seeds where it has no interval."""
    if found.over != _PAIRS or found.interval.low is not None:
        return found.of
    listed = ", ".join(map(digits, pair_values(source, group, metric)))
    return f"{found.of}: {listed}" if listed else found.of


def pair_values(source: Source, group: str, metric: Metric) -> list[float]:
    """Return a metric of every pair of seeds of a group, in the order of the seeds."""
    for sae, _, record in source.results("cross_seed"):
        if sae.group == group:
            pairs = extra_of(record).get("group_pairs")
            listed = pairs if isinstance(pairs, list) else []
            values = [mapping(pair).get(metric.name) for pair in listed]
            return [float(value) for value in values if isinstance(value, (int, float))]
    return []


def _chance(frame: pd.DataFrame, metric: Metric) -> Cell:
    """Return the mean that random dictionaries reach, and its range if they differ."""
    name = _CHANCE.get(metric.key, f"baseline/{metric.name}")
    mine = (frame["eval"] == metric.eval) & (frame["metric"] == name)
    values = frame.loc[mine, "value"].dropna().astype(float)
    if values.empty:
        return text(None)
    low, high = digits(float(values.min())), digits(float(values.max()))
    note = "" if low == high else f"{low} to {high}"
    return figure(Interval(float(values.mean()), None, None, len(values)), note=note)


def _difference_table(differences: Iterable[GroupDifference]) -> PageTable | None:
    rows = [
        [
            text(item.name, title=meaning("cross_seed", item.metric).sentence),
            text(f"{item.group} \u2212 {item.other}"),
            figure(item.interval),
            text(over(item)),
            text(verdict(item)),
        ]
        for item in differences
        if item.name in HEADLINE_DIFFERENCES
    ]
    if not rows:
        return None
    caption = "Differences between groups [95 % interval]"
    heads = ["metric", "groups", "difference", "interval over", "verdict"]
    return table("differences", caption, heads, rows)


def _width_table(source: Source) -> tuple[PageTable | None, list[str]]:
    """Return the comparisons with width-matched controls, if there are any, and trouble."""
    if not any(matched_to(source, group) for group in source.groups):
        return None, []
    try:
        found = compare_widths(source.folder, without=source.damaged)
    except InputError as error:
        return None, [f"Width-matched controls are not compared: {source.told(error)}"]
    rows = [
        [
            text(item.kind),
            text(f"{item.group} \u2212 {item.other}"),
            text(item.metric),
            text(item.reason)
            if item.difference is None
            else figure(Interval(item.difference, item.low, item.high, item.n)),
            text(f"{item.n} {item.interval_over}" if item.interval_over else None),
        ]
        for item in found
        if item.metric in SHOWN
    ]
    heads = ["comparison", "groups", "metric", "difference", "interval over"]
    caption = "Width-matched controls [95 % interval]"
    return table("widths", caption, heads, rows), []
