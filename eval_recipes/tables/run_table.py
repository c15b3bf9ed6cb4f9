"""Headline figures of a run as tables and sentences: SAEs, groups, differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval_recipes.results.differences import GroupDifference, plain_groups
from eval_recipes.results.headlines import (
    HEADLINE_DIFFERENCES,
    Metric,
    headline_metrics,
)
from eval_recipes.results.tidy import one_line
from eval_recipes.statistics.interval import Interval
from eval_recipes.statistics.seeds import seed_interval
from eval_recipes.tables.table import NONE, cell, digits, interval_words, plain_table

_WIDTH = 6
"""Most columns of figures in one table."""


def group_figure(rows: pd.DataFrame, metric: Metric) -> Interval | None:
    """
    Return a group's mean of one headline with its 95 % interval over seeds, if it has seeds.

    A figure that the evaluation gives for the whole group (``group/<name>``) is taken as it
    is: it accounts for pairs that share a seed.
    """
    own = _select(rows, Metric(metric.eval, f"group/{metric.name}", ""))
    if len(own):
        own = own.loc[own["value"].notna()]
        return _own_figure(own) if len(own) else None
    found = _select(rows, metric)
    found = found.loc[found["value"].notna()]
    return None if found.empty else mean_of_saes(found)


NO_SEEDS = "the SAEs are not seeds of one configuration"


def are_seeds(rows: pd.DataFrame) -> bool:
    """Return whether every row has a seed of its own, as the SAEs of one group have."""
    seeds = rows["seed"]
    return not bool((seeds.isna() | seeds.duplicated()).to_numpy().any())


def mean_of_saes(rows: pd.DataFrame) -> Interval:
    """
    Return the mean of one metric, one row per SAE, with its 95 % interval over seeds.

    SAEs without a seed, or with one in common, have a mean without an interval: they differ in
    more than their seed.
    """
    values = rows["value"].astype(float)
    if not are_seeds(rows):
        return Interval(float(values.mean()), None, None, len(values), NO_SEEDS)
    return seed_interval(dict(enumerate(values)))


def _own_figure(rows: pd.DataFrame) -> Interval:
    value, low, high = (float(rows[name].iloc[0]) for name in ("value", "low", "high"))
    if math.isnan(low) or math.isnan(high):
        return Interval(value, None, None, len(rows))
    return Interval(value, low, high, len(rows))


def _select(frame: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    mine = (frame["eval"] == metric.eval) & (frame["metric"] == metric.metric)
    return frame.loc[mine]


def _table(title: str, first: Sequence[str], metrics: Iterable[Metric]) -> Table:
    table = plain_table(title)
    for name in first:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for metric in metrics:
        table.add_column(escape(metric.title), justify="right")
    return table


def sae_table(frame: pd.DataFrame, metrics: Sequence[Metric]) -> Table:
    """
    Return a table with one row per SAE and one column per metric.

    Group and seed have columns of their own only if an id does not show them already.
    """
    first = {"sae_id": "SAE", "group": "group", "seed": "seed"}
    if _are_in_ids(frame):
        first = {"sae_id": "SAE"}
    table = _table("SAEs", list(first.values()), metrics)
    columns = ["group", "seed", "release", "sae_id"]
    for _, rows in frame.groupby(columns, dropna=False):
        names = [_text(rows[name].iloc[0]) for name in first]
        cells: list[str] = []
        for metric in metrics:
            values = _select(rows, metric)["value"].dropna()
            cells.append(digits(float(values.iloc[0])) if len(values) else NONE)
        table.add_row(*names, *cells)
    return table


def _are_in_ids(frame: pd.DataFrame) -> bool:
    """Return whether every id is ``<group>-seed<seed>``."""
    saes = frame[["sae_id", "group", "seed"]].drop_duplicates()
    return all(
        sae_id == f"{group}-seed{seed}"
        for sae_id, group, seed in saes.itertuples(index=False, name=None)
    )


def group_table(frame: pd.DataFrame, metrics: Sequence[Metric]) -> Table:
    """Return a table with one row per group: the mean over its SAEs and its interval."""
    table = _table(
        "Groups: mean \\[95 % interval over seeds or, from five seeds on, their pairs]",
        ["group", "SAEs"],
        metrics,
    )
    for _, rows in frame.groupby(["release", "group"], dropna=False):
        saes = rows[["release", "sae_id"]].drop_duplicates()
        cells = [cell(group_figure(rows, metric)) for metric in metrics]
        table.add_row(_text(rows["group"].iloc[0]), str(len(saes)), *cells)
    return table


def difference_table(differences: Iterable[GroupDifference]) -> Table:
    """
    Return a table of the differences between groups, each with its verdict.

    Where the interval says nothing about other seeds, the verdict lists each pair of seeds.
    """
    table = plain_table("Differences \\[95 % interval]")
    table.add_column("metric", min_width=len("explained_variance"), overflow="fold")
    for name in ("groups", "difference", "interval over", "verdict"):
        table.add_column(name, overflow="fold")
    for item in differences:
        if item.name in HEADLINE_DIFFERENCES:
            table.add_row(
                item.name,
                f"{_text(item.group)} - {_text(item.other)}",
                cell(item.interval),
                over(item),
                verdict(item),
            )
    return table


def over(item: GroupDifference) -> str:
    """Return what an interval is over and of how many, or how many values there are."""
    if item.n is None:
        return "-"
    return f"{item.n} {item.interval_over}" if item.interval_over else f"n = {item.n}"


def listed(item: GroupDifference) -> str:
    """Return the difference in every seed or pair of seeds, in their order."""
    return ", ".join(digits(value) for _, value in item.values)


def verdict(item: GroupDifference) -> str:
    """Return a difference's verdict in words; without an interval over seeds, its values."""
    if item.distinguishable:
        return "differs"
    if item.decidable:
        return "not distinguishable"
    if not item.has_interval:
        values = [value for _, value in item.values]
        if len(values) > 1 and len(set(values)) == 1:
            return "all equal"
        return f"too few seeds; each: {listed(item)}" if values else "no interval"
    return f"too few seeds; pairs: {listed(item)}" if item.values else "too few seeds"


def _text(value: Any) -> str:
    """Return a table cell: names are shown as they are, never read as markup."""
    return NONE if pd.isna(value) else escape(one_line(value) or "")


def print_table(
    frame: pd.DataFrame,
    console: Console,
    differences: Sequence[GroupDifference] = (),
) -> None:
    """
    Print headline figures of every SAE and group, then the groups' differences.

    Each table has at most six headlines, for which 80 columns are enough; ``differences`` are
    ``load_group_differences``'.
    """
    if frame.empty:
        console.print("No results.")
        return
    metrics = headline_metrics(frame)
    for first in range(0, len(metrics), _WIDTH):
        part = metrics[first : first + _WIDTH]
        console.print(sae_table(frame, part))
        console.print(group_table(frame, part))
    chance = _by_chance(frame)
    if chance:
        console.print(f"By chance, random SAEs of the same shape: {chance}.")
    if differences:
        _print_differences(frame, console, differences)


_CHANCE = (
    Metric("cross_seed", "baseline/shared", "shared"),
    Metric("cross_seed", "baseline/mean_max_cos", "max cos"),
)
"""What chance reaches of two figures of a run."""


def _by_chance(frame: pd.DataFrame) -> str:
    """Return what random SAEs reach, as words; nothing where it was not measured."""
    found: list[str] = []
    for metric in _CHANCE:
        values = [float(v) for v in _select(frame, metric)["value"].dropna()]
        if values:
            ends = dict.fromkeys((digits(min(values)), digits(max(values))))
            found.append(f"{metric.title} {' to '.join(ends)}")
    return ", ".join(found)


def _print_differences(
    frame: pd.DataFrame, console: Console, differences: Sequence[GroupDifference]
) -> None:
    """Print differences, those from unregularised groups alone if there are any."""
    plain = plain_groups(frame)
    chosen = [item for item in differences if item.other in plain] or differences
    console.print(difference_table(chosen))
    left = [item for item in differences if item not in chosen]
    if left:
        pairs = len({(item.group, item.other) for item in left})
        more = "1 more pair of groups is" if pairs == 1 else f"{pairs} more pairs are"
        console.print(f"{more} compared in the result files.")


_SENTENCES = {
    "shared": "share of latents that two seeds have in common",
    "mean_max_cos": "mean best cosine between two seeds' latents",
    "explained_variance": "explained variance on held-out text",
    "alive": "number of latents that fire on held-out text",
}

_COSTS = {
    "explained_variance": "reconstructs less",
    "alive": "uses fewer latents",
}
"""Meaning of a drop of a metric that qualifies the other differences."""


def read_differences(
    differences: Iterable[GroupDifference], *, group: str, other: str
) -> list[str]:
    """
    Return one sentence for each headline difference of ``group`` minus ``other``.

    A difference counts only if its interval is over seeds or pairs of seeds and excludes 0.
    Without such an interval every pair's difference is listed, without a verdict.
    """
    found = {
        item.name: item if item.group == group else item.reversed()
        for item in differences
        if {item.group, item.other} == {group, other}
    }
    sentences = [
        _sentence(words, found[metric])
        for metric, words in _SENTENCES.items()
        if metric in found
    ]
    costs = [
        words
        for metric, words in _COSTS.items()
        if metric in found
        and found[metric].distinguishable
        and found[metric].difference < 0
    ]
    if costs:
        sentences.append(
            f"{group} {' and '.join(costs)} than {other}, which by itself can raise agreement between "
            "seeds: compare groups of equal width and equal explained variance before crediting the penalty."
        )
    return sentences


def _sentence(words: str, item: GroupDifference) -> str:
    group, other = item.group, item.other
    if not item.has_interval:
        return f"The {words}: no interval (n = {item.n}), so {group} and {other} are not distinguishable."
    interval = f"{interval_words(item.interval)} over {over(item)}"
    if not item.decidable:
        pairs = f"; pair by pair {listed(item)}" if item.values else ""
        return (
            f"The {words}: {group} minus {other} is {digits(item.difference)}{pairs} ({interval}). "
            "These are too few seeds for a verdict: an interval over latents says nothing about other seeds."
        )
    numbers = f"(difference {digits(item.difference)}, {interval})"
    if not item.distinguishable:
        return (
            f"The {words} is not distinguishable between {group} and {other} {numbers}."
        )
    direction = "higher" if item.difference > 0 else "lower"
    return f"The {words} is {direction} with {group} than with {other} {numbers}."
