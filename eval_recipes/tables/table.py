"""Table of SAEs by metric, and its cells: terminal, CSV, Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from eval_recipes.results.files import load_results
from eval_recipes.results.headlines import L0, Metric, choose
from eval_recipes.results.outdated import DAGGER, FOOTNOTE
from eval_recipes.results.reading import SUFFIX
from eval_recipes.statistics.interval import Interval
from saereg_plugin.errors import InputError

SAE = ["release", "sae_id"]
"""Columns that name one SAE."""

KIND = ["architecture", "penalty"]
"""Columns that a front is drawn for."""


def results_frame(results: str | Path | pd.DataFrame) -> pd.DataFrame:
    """
    Return the tidy table of a folder of results; a table is returned as it is.

    Raises:
        InputError: if it holds no result.
    """
    if isinstance(results, pd.DataFrame):
        return results
    frame = load_results(Path(results))
    if frame.empty:
        raise InputError(
            f"Folder {str(results)!r} holds no results; expected files named '*{SUFFIX}', in it "
            "or in folders below. Write some with 'saereg-bench run --out'."
        )
    return frame


def results_table(
    results: str | Path | pd.DataFrame, metrics: Iterable[str] = ()
) -> pd.DataFrame:
    """
    Return one row per SAE and one column per metric, as ``saereg-bench table`` prints.

    Example::

        import eval_recipes

        eval_recipes.results_table("results", ["explained variance", "shared"])

    Args:
        results: a folder of results, or what ``load_results`` returned.
        metrics: names as in ``saereg-bench table --metric``; by default the headlines.

    Raises:
        InputError: if there is no result, or no such metric.
    """
    frame = results_frame(results)
    return wide_frame(frame, choose(frame, metrics))


def points(frame: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """
    Return one row per SAE: columns SAE, KIND, group, seed, ``l0``, ``value``, ``low``, ``high``, ``front``, ``outdated``.

    L0 is joined from core's result of the same release and id. ``front`` marks the SAEs
    of a KIND of which no other has a better value at the same or a lower L0; ``outdated``
    those of which the value or the L0 should have been replaced. SAEs without
    L0 or value are left out. Of several results of one SAE the last counts, in the order
    of the table.
    """
    columns = [*SAE, *KIND, "group", "seed", "value", "low", "high", "outdated"]
    values = last_values(frame, metric)[columns]
    l0: Any = last_values(frame, L0)[[*SAE, "value", "outdated"]]
    l0 = l0.rename(columns={"value": "l0", "outdated": "l0_outdated"})
    joined = values.merge(l0, on=SAE, how="inner").dropna(subset=["value", "l0"])
    joined["outdated"] |= joined.pop("l0_outdated")
    joined["front"] = False
    for _, rows in joined.groupby(KIND, dropna=False):
        mask = on_front(
            rows["l0"].to_numpy(float),
            rows["value"].to_numpy(float),
            higher_is_better=metric.higher_is_better,
        )
        joined.loc[rows.index, "front"] = mask
    return joined.sort_values([*KIND, "l0", *SAE], ignore_index=True)


def on_front(
    l0: NDArray[np.float64],
    value: NDArray[np.float64],
    *,
    higher_is_better: bool = True,
) -> NDArray[np.bool_]:
    """
    Return which points [n] no other one dominates.

    A point dominates another if it is at least as good in both (a lower L0 is better) and
    better in one. Points that are equal in both stay together.
    """
    gain = value if higher_is_better else -value
    keep = np.zeros(len(gain), dtype=bool)
    order = np.lexsort((-gain, l0))
    best = -np.inf
    last: tuple[float, float] | None = None
    for index in order:
        point = (float(l0[index]), float(gain[index]))
        if gain[index] > best or point == last:
            keep[index] = True
            best, last = point[1], point
    return keep


def without_l0(frame: pd.DataFrame, metric: Metric) -> list[str]:
    """Return the ids of SAEs that have the metric and no L0."""
    have = set(last_values(frame, L0)[SAE].itertuples(index=False, name=None))
    rows = last_values(frame, metric)[SAE].itertuples(index=False, name=None)
    return [str(key[1]) for key in rows if key not in have]


def kind_label(architecture: Any, penalty: Any) -> str:
    """Return the name of a front, such as "topk, l2 0.006", without missing parts."""
    parts = [str(part) for part in (architecture, penalty) if not pd.isna(part)]
    return ", ".join(parts) or "unknown"


GroupFacts = tuple[Any, Any, Any]
"""Group, architecture and penalty of an SAE; each may be missing."""


def group_names(
    saes: Mapping[tuple[str, str], GroupFacts],
) -> dict[tuple[str, str], str]:
    """
    Return the name of each SAE's group, by release and id.

    A group that several releases have is named with its release. SAEs without a group are
    grouped by their kind.

    >>> group_names({("a", "0"): ("l2", None, None), ("b", "0"): ("l2", None, None)})
    {('a', '0'): 'a/l2', ('b', '0'): 'b/l2'}
    """
    pairs = {(release, facts[0]) for (release, _), facts in saes.items()}
    counts = Counter(group for _, group in pairs if not pd.isna(group))
    names: dict[tuple[str, str], str] = {}
    for key, (group, *kind) in saes.items():
        if pd.isna(group):
            names[key] = kind_label(*kind)
        else:
            names[key] = f"{key[0]}/{group}" if counts[group] > 1 else str(group)
    return names


_NARROW = 0.02
"""Relative spread of the L0 values up to which a front against L0 says nothing."""


def has_one_l0(rows: pd.DataFrame) -> bool:
    """Return whether the L0 values of points differ by 2 % at most."""
    low, high = float(rows["l0"].min()), float(rows["l0"].max())
    return high - low <= _NARROW * high


def last_values(frame: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return the rows of a metric, one per SAE: the last that has a value."""
    rows = frame.loc[
        (frame["eval"] == metric.eval)
        & (frame["metric"] == metric.metric)
        & frame["value"].notna()
    ]
    return rows.drop_duplicates(SAE, keep="last")


_FIRST = [*SAE, "group", "seed", *KIND]


def wide_frame(frame: pd.DataFrame, metrics: Sequence[Metric]) -> pd.DataFrame:
    """
    Return one row per SAE: release, sae_id, group, seed, architecture, penalty, L0, the metrics,
    and whether any of these is ``outdated``.

    A metric's column has its title, or its full name where two share a title. Missing
    values stay missing. SAEs in the order of their kind, then of L0.
    """
    columns = {metric: name for metric, name in zip(metrics, _titles(metrics))}
    wide, old = _saes(frame), set[Any]()
    for metric, name in {L0: L0.title, **columns}.items():
        rows = last_values(frame, metric)
        old |= set(zip(*(rows.loc[rows["outdated"], column] for column in SAE)))
        if name not in wide:
            values: Any = rows[[*SAE, "value"]]
            values = values.rename(columns={"value": name})
            wide = wide.merge(values, on=SAE, how="left")
    wide["outdated"] = [sae in old for sae in zip(*(wide[column] for column in SAE))]
    return wide.sort_values([*KIND, L0.title, *SAE], ignore_index=True)


def _titles(metrics: Sequence[Metric]) -> list[str]:
    titles = [metric.title for metric in metrics]
    return [
        metric.full_name if titles.count(metric.title) > 1 else metric.title
        for metric in metrics
    ]


def _saes(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per SAE, each column by the first of its files that has a value."""
    groups: Any = frame[_FIRST].groupby(SAE, dropna=False, sort=False, as_index=False)
    # the first value that is not missing
    return groups.first()[_FIRST]


def fronts(
    frame: pd.DataFrame, metrics: Sequence[Metric]
) -> dict[str, set[tuple[str, str]]]:
    """Return by column the SAEs on their kind's Pareto front against L0."""
    found: dict[str, set[tuple[str, str]]] = {}
    for metric, name in zip(metrics, _titles(metrics)):
        rows = points(frame, metric)
        best = rows.loc[rows["front"], SAE]
        found[name] = set(best.itertuples(index=False, name=None))
    return found


def rich_table(frame: pd.DataFrame, metrics: Sequence[Metric]) -> Table:
    """Return the table for a terminal; a star marks SAEs on their kind's Pareto front."""
    wide, best = wide_frame(frame, metrics), fronts(frame, metrics)
    several = wide["release"].nunique(dropna=False) > 1
    hidden = {"outdated"} if several else {"release", "outdated"}
    table = plain_table(
        "SAEs (* on the Pareto front of its architecture and penalty, against L0)",
        caption=FOOTNOTE if any(wide["outdated"]) else None,
        caption_justify="left",
    )
    shown = [name for name in wide.columns if name not in hidden]
    for name in shown:
        numeric = name not in _FIRST
        table.add_column(
            escape(name), justify="right" if numeric else "left", overflow="fold"
        )
    for row in wide.to_dict("records"):
        key = (row["release"], row["sae_id"])
        table.add_row(
            *(
                escape(_shown(row, name)) + ("*" if key in best.get(name, ()) else "")
                for name in shown
            )
        )
    return table


def markdown(frame: pd.DataFrame, metrics: Sequence[Metric]) -> str:
    """Return the table as Markdown."""
    wide = wide_frame(frame, metrics)
    names = [str(name) for name in wide.columns if name != "outdated"]
    rows = [[_shown(row, name) for name in names] for row in wide.to_dict("records")]
    table = markdown_table(names, rows, right=set(names) - set(_FIRST))
    note = f"\n\n{FOOTNOTE}" if any(wide["outdated"]) else ""
    return f"{table}{note}\n"


def csv(frame: pd.DataFrame, metrics: Sequence[Metric]) -> str:
    """Return the table as CSV, every digit kept."""
    return wide_frame(frame, metrics).to_csv(index=False)


def _shown(row: Mapping[Any, Any], name: str) -> str:
    """Return a cell; the name of an outdated SAE has a dagger."""
    mark = DAGGER if name == "sae_id" and row["outdated"] else ""
    return _cell(row[name]) + mark


def _cell(value: Any) -> str:
    if pd.isna(value):
        return NONE
    return digits(value) if isinstance(value, float) else str(value)


NONE = "-"
"""A cell without a value."""


def digits(value: float) -> str:
    """
    Return a number in few characters.

    >>> digits(0.82349), digits(31.98), digits(4096.0), digits(-1.2e-6)
    ('.823', '32.0', '4096', '-1.2e-06')
    """
    if not math.isfinite(value):
        return NONE
    # a difference of zero may be -0.0
    value += 0.0
    size = abs(value)
    if value == round(value) or size >= 1000:
        return f"{value:.0f}"
    if size >= 1:
        return f"{value:.3g}" if size >= 100 else f"{value:#.3g}"
    if size < 5e-4:
        return f"{value:.1e}"
    return f"{value:.3f}".replace("0.", ".", 1)


def cell(figure: Interval | None, show: Callable[[float], str] = digits) -> str:
    """
    Return a figure and its interval as ``value [low, high]``, each end as ``show`` writes it.

    >>> cell(Interval(0.5, 0.25, 0.75, 3)), cell(Interval(0.5, None, None, 1)), cell(None)
    ('.500 [.250, .750]', '.500', '-')
    """
    if figure is None:
        return NONE
    if figure.low is None or figure.high is None:
        return show(figure.value)
    return f"{show(figure.value)} [{show(figure.low)}, {show(figure.high)}]"


def interval_words(figure: Interval) -> str:
    """Return ``95 % interval low to high`` in few digits, or why there is none."""
    if figure.low is None or figure.high is None:
        return f"no interval: {figure.reason}"
    return f"95 % interval {digits(figure.low)} to {digits(figure.high)}"


def markdown_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str] = (),
) -> str:
    """
    Return a Markdown table without a final newline; columns headed ``right`` are right-aligned.

    >>> print(markdown_table(["a", "b"], [["x|y", "1"]], right=["b"]))
    | a | b |
    | --- | ---: |
    | x\\|y | 1 |
    """
    rule = ["---:" if head in right else "---" for head in heads]
    return "\n".join(
        f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |"
        for line in (heads, rule, *rows)
    )


def plain_table(title: str, **settings: Any) -> Table:
    """Return an empty table for the terminal, without borders; ``settings`` are rich's."""
    return Table(
        title=title, title_justify="left", box=None, pad_edge=False, **settings
    )
