"""Training curves of a release, each SAE's last record in a table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.report.cells import Column, PageTable, number, table, text
from eval_recipes.report.distributions import Plot
from eval_recipes.report.source import PageSAE, Source, entries_of
from saereg_plugin.errors import InputError
from saereg_plugin.releases.records import RECORDS, load_records
from saereg_plugin.releases.release import Release

_CURVES = {
    "loss": ("Loss", "loss of the training step", True),
    "explained_variance": ("Explained variance", "of the training batch", False),
    "alive": ("Alive latents", "fired within the dead-latent window", False),
    "l0": ("L0", "active latents per token", False),
    "gradient_norm": ("Gradient norm", "before clipping", True),
}
"""Title, meaning, and whether the axis is logarithmic, by the field in the records."""

_LOGGED = {
    "losses/": "part of the training step's loss",
    "metrics/": "logged by a regulariser or mechanic",
}
"""Meaning of further fields by their beginning."""

_MOST_POINTS = 200
"""Most points of one curve."""


def even_indices(count: int, most: int) -> list[int]:
    """Return at most ``most`` indices below ``count``, evenly spread, first and last included."""
    if count <= most:
        return list(range(count))
    if most < 2:
        return [count - 1][:most]
    return [round(number * (count - 1) / (most - 1)) for number in range(most)]


def read_training(source: Source) -> tuple[list[Plot], list[str]]:
    """Return the training curves of the named releases, and why records cannot be read."""
    frames: list[pd.DataFrame] = []
    trouble: list[str] = []
    for release in source.releases:
        folder = release.folder
        if folder is None or not (folder / RECORDS).is_dir():
            continue
        try:
            frames.append(_records(source, release, folder))
        except InputError as error:
            trouble.append(f"Training curves are left out: {source.told(error)}")
    if not frames:
        return [], trouble
    frame = pd.concat(frames, ignore_index=True)
    known = {sae.label: sae for sae in source.saes}
    curves = {**_CURVES, **_logged(frame)}
    plots = [
        _plot(source, frame, known, field, curves[field])
        for field in curves
        if field in frame and bool(frame[field].notna().to_numpy().any())
    ]
    return plots, trouble


def _logged(frame: pd.DataFrame) -> dict[str, tuple[str, str, bool]]:
    """Return title, meaning and axis of losses and metrics, those that are always 0 left out."""
    return {
        field: (field.removeprefix(start), meaning, False)
        for start, meaning in _LOGGED.items()
        for field in sorted(map(str, frame.columns))
        if field.startswith(start) and bool((frame[field].fillna(0) != 0).any())
    }


def _records(source: Source, release: Release, folder: Path) -> pd.DataFrame:
    """Return the records of a release's SAEs that have results, by their labels."""
    by_key = {sae.key: sae.label for sae in source.saes}
    labels = {
        entry.sae_id: by_key[key] for key, entry in entries_of(release) if key in by_key
    }
    frame = load_records(folder)
    if not {"step", "tokens"} <= set(frame):
        raise InputError(
            f"the training records in {str(folder / RECORDS)!r} have no 'step' or no 'tokens'; "
            "expected those that 'saereg-bench train' writes."
        )
    mine = frame.loc[frame["sae_id"].isin(list(labels))]
    return mine.assign(sae_id=[labels[str(name)] for name in mine["sae_id"]])


def _plot(
    source: Source,
    frame: pd.DataFrame,
    known: dict[str, PageSAE],
    field: str,
    curve: tuple[str, str, bool],
) -> Plot:
    title, sentence, log = curve
    series: list[dict[str, Any]] = []
    for name, rows in frame.groupby("sae_id", sort=True):
        sae = known[str(name)]
        kept = rows.dropna(subset=[field])
        kept = kept.iloc[even_indices(len(kept), _MOST_POINTS)]
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
        name=_name(field),
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


def _name(field: str) -> str:
    """Return the name of a plot on the page; a regulariser's label may hold any character."""
    return "training-" + re.sub("[^A-Za-z0-9]+", "-", field)


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
    return table(f"{_name(field)}-table", caption, heads, rows)
