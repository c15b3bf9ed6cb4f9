"""Training curves of a release, each SAE's last record in a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.report.cells import Column, PageTable, number, table, text
from eval_recipes.report.distributions import Plot
from eval_recipes.report.source import PageSAE, Source
from saereg_plugin.sweeps.records import RECORDS, load_records

_CURVES = {
    "loss": ("Loss", "loss of the training step", True),
    "explained_variance": ("Explained variance", "of the training batch", False),
    "alive": ("Alive latents", "fired within the dead-latent window", False),
    "l0": ("L0", "active latents per token", False),
    "gradient_norm": ("Gradient norm", "before clipping", True),
}
"""Title, meaning, and whether the axis is logarithmic, by the field in the records."""

_MOST_POINTS = 400
"""Most points of one curve."""


def read_training(source: Source) -> list[Plot]:
    """Return the training curves of the release, if it was named and has records."""
    if source.release is None or source.release.folder is None:
        return []
    folder: Path = source.release.folder
    if not (folder / RECORDS).is_dir():
        return []
    frame = load_records(folder)
    known = {sae.sae_id: sae for sae in source.saes}
    frame = frame.loc[frame["sae_id"].isin(list(known))]
    return [
        _plot(source, frame, known, field)
        for field in _CURVES
        if field in frame and bool(frame[field].notna().to_numpy().any())
    ]


def _plot(
    source: Source, frame: pd.DataFrame, known: dict[str, PageSAE], field: str
) -> Plot:
    title, sentence, log = _CURVES[field]
    series: list[dict[str, Any]] = []
    for name, rows in frame.groupby("sae_id", sort=True):
        sae = known[str(name)]
        kept = rows.dropna(subset=[field]).iloc[:: max(1, len(rows) // _MOST_POINTS)]
        series.append(
            {
                "name": sae.group,
                "seed": 0 if sae.seed is None else sae.seed,
                "group": sae.group,
                "colour": source.colours[sae.group],
                "x": kept["tokens"].tolist(),
                "y": [float(value) for value in kept[field]],
            }
        )
    return Plot(
        name=f"training-{field.replace('_', '-')}",
        title=f"Training: {title[:1].lower()}{title[1:]}",
        sentence=f"{title}: {sentence}, against training tokens, a line per SAE.",
        facts={
            "kind": "line",
            "x_title": "training tokens",
            "y_title": title,
            "y_log": log,
            "series": series,
        },
        table=_table(frame, known, field, title),
    )


def _table(
    frame: pd.DataFrame, known: dict[str, PageSAE], field: str, title: str
) -> PageTable:
    """Return the first and the last record of each SAE."""
    rows = [
        [
            text(known[str(name)].label),
            text(known[str(name)].group, group=known[str(name)].group),
            number(found[field].iloc[0]),
            number(found[field].iloc[-1]),
        ]
        for name, found in frame.groupby("sae_id", sort=True)
    ]
    heads = [Column("SAE"), Column("group"), Column("first step"), Column("last step")]
    caption = f"{title} at the first and the last recorded step"
    return table(f"training-{field.replace('_', '-')}-table", caption, heads, rows)
