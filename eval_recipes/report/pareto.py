"""Metrics against L0, and the fronts of each architecture and penalty."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from eval_recipes.report.cells import (
    Cell,
    Column,
    PageTable,
    figure,
    number,
    table,
    text,
)
from eval_recipes.report.meanings import meaning
from eval_recipes.report.source import PageSAE, Source
from eval_recipes.report.verdicts import is_chance, row_interval
from eval_recipes.results.headlines import (
    L0,
    TABLE_COLUMNS,
    Metric,
    headline_metrics,
)
from eval_recipes.tables.table import has_one_l0, kind_label, points

_OTHER_L0 = Metric("core", "corrected/l0", "L0")


@dataclass(frozen=True)
class Pareto:
    """Facts for the plot, and its numbers in a table; empty where no SAE has an L0."""

    facts: dict[str, Any]
    table: PageTable | None
    without_l0: list[str]


def read_pareto(source: Source) -> Pareto:
    """Return every headline against L0."""
    metrics = _metrics(source.frame)
    found = {metric: points(source.frame, metric) for metric in metrics}
    drawn = {metric: rows for metric, rows in found.items() if len(rows)}
    placed = {key for rows in drawn.values() for key in _keys(rows)}
    saes = [sae for sae in source.saes if sae.key in placed]
    return Pareto(
        facts=_facts(source, saes, drawn),
        table=_table(saes, drawn) if drawn else None,
        without_l0=[sae.label for sae in source.saes if sae.key not in placed],
    )


def _metrics(frame: pd.DataFrame) -> list[Metric]:
    """Return the metrics to choose from: SAEBench's headlines and this package's."""
    present = set(zip(frame["eval"], frame["metric"]))
    known = [
        replace(metric, title=f"{metric.title} (SAEBench)")
        if metric.title == "SP"
        else metric
        for metric in TABLE_COLUMNS
        if metric.key in present
    ]
    every = {metric.key: metric for metric in (*known, *headline_metrics(frame))}
    order = dict.fromkeys(m.key for m in (*headline_metrics(frame), *known))
    left_out = (L0.key, _OTHER_L0.key)
    return [every[k] for k in order if k not in left_out and not is_chance(every[k])]


def _keys(rows: pd.DataFrame) -> list[tuple[Any, Any]]:
    return list(zip(rows["release"], rows["sae_id"]))


def _facts(
    source: Source, saes: list[PageSAE], drawn: dict[Metric, pd.DataFrame]
) -> dict[str, Any]:
    labels = {sae.key: sae.label for sae in saes}
    by_sae: dict[str, dict[str, Any]] = {
        sae.label: {"sae": sae.label, "l0": None, "values": {}} for sae in saes
    }
    fronts: dict[str, list[dict[str, Any]]] = {}
    for metric, rows in drawn.items():
        for row in rows.to_dict("records"):
            point = by_sae[labels[row["release"], row["sae_id"]]]
            point["l0"] = row["l0"]
            point["values"][metric.full_name] = _ends(row)
        fronts[metric.full_name] = _fronts(source, rows, labels)
    return {
        "one_l0": bool(drawn) and has_one_l0(pd.concat(drawn.values())),
        "metrics": [
            {
                "key": metric.full_name,
                "title": metric.title,
                "higher_is_better": metric.higher_is_better,
                "meaning": meaning(metric.eval, metric.metric).sentence,
            }
            for metric in drawn
        ],
        "points": list(by_sae.values()),
        "fronts": fronts,
    }


def _ends(row: dict[Any, Any]) -> list[float | None]:
    return [
        None if pd.isna(row[k]) else float(row[k]) for k in ("value", "low", "high")
    ]


def _fronts(
    source: Source, rows: pd.DataFrame, labels: dict[tuple[str, str], str]
) -> list[dict[str, Any]]:
    """Return the SAEs on each kind's front, in the order of L0."""
    found: list[dict[str, Any]] = []
    best = rows.loc[rows["front"]]
    for kind, front in best.groupby(["architecture", "penalty"], dropna=False):
        names = [labels[key] for key in _keys(front)]
        groups = dict.fromkeys(front["group"])
        colour = source.colours[next(iter(groups))] if len(groups) == 1 else None
        found.append({"kind": kind_label(*kind), "colour": colour, "saes": names})
    return found


def _table(saes: list[PageSAE], drawn: dict[Metric, pd.DataFrame]) -> PageTable:
    heads = [Column("SAE"), Column("group"), Column("L0")]
    heads += [Column(m.title, meaning(m.eval, m.metric).sentence) for m in drawn]
    by_metric = [
        {(row["release"], row["sae_id"]): row for row in rows.to_dict("records")}
        for rows in drawn.values()
    ]
    l0 = {key: row["l0"] for found in by_metric for key, row in found.items()}
    rows = [
        [
            text(sae.label),
            text(sae.group, group=sae.group),
            number(l0.get(sae.key)),
            *(_value(found.get(sae.key)) for found in by_metric),
        ]
        for sae in saes
    ]
    caption = (
        "SAEs by L0; a star marks the Pareto front of an architecture and penalty; intervals, "
        "where there are any, are over latents, contexts or texts of the one SAE"
    )
    return table("pareto-table", caption, heads, rows)


def _value(row: dict[Any, Any] | None) -> Cell:
    if row is None:
        return text(None)
    return figure(row_interval(row | {"n": None}), mark="*" if row["front"] else "")
