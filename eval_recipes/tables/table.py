"""A table with one row an SAE and one column a metric: on the terminal, CSV, Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from eval_recipes.results.headlines import L0, Metric
from eval_recipes.results.outdated import DAGGER, FOOTNOTE
from eval_recipes.tables.pareto import KIND, SAE, last_values, points
from eval_recipes.tables.run_table import digits

_FIRST = [*SAE, "group", "seed", *KIND]


def wide_frame(frame: pd.DataFrame, metrics: Sequence[Metric]) -> pd.DataFrame:
    """
    Return one row an SAE: release, sae_id, group, seed, architecture, penalty, L0, the metrics,
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
    """Return one row an SAE; what one of its files does not say another may."""
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
    table = Table(
        title="SAEs (* on the Pareto front of its architecture and penalty, against L0)",
        title_justify="left",
        caption=FOOTNOTE if any(wide["outdated"]) else None,
        caption_justify="left",
        box=None,
        pad_edge=False,
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
    rule = ["---" if name in _FIRST else "---:" for name in names]
    rows = [[_shown(row, name) for name in names] for row in wide.to_dict("records")]
    lines = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        for cells in (names, rule, *rows)
    ]
    if any(wide["outdated"]):
        lines += ["", FOOTNOTE]
    return "\n".join(lines) + "\n"


def csv(frame: pd.DataFrame, metrics: Sequence[Metric]) -> str:
    """Return the table as CSV, every digit kept."""
    return wide_frame(frame, metrics).to_csv(index=False)


def _shown(row: Mapping[Any, Any], name: str) -> str:
    """Return a cell; the name of an outdated SAE has a dagger."""
    mark = DAGGER if name == "sae_id" and row["outdated"] else ""
    return _cell(row[name]) + mark


def _cell(value: Any) -> str:
    if value is None or pd.isna(value):
        return "-"
    return digits(value) if isinstance(value, float) else str(value)
