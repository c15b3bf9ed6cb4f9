"""Training curves of a release for the report page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TypedDict

import pandas as pd

from saereg_plugin.sweeps.records import RECORDS, load_records

METRICS = {
    "loss": "Loss",
    "explained_variance": "Explained variance",
    "alive": "Alive latents",
    "l0": "L0",
    "gradient_norm": "Gradient norm",
}
"""Metrics of the training records that the page draws, and their titles."""
MOST_POINTS = 200
"""Points of one curve."""


class Curve(TypedDict):
    """One metric of one SAE over its training."""

    sae: str
    x: list[int]
    """Steps."""
    y: list[float | None]
    """Values of one batch each; None where the value was not finite."""


def training_curves(
    release: str | Path, *, points: int = MOST_POINTS
) -> dict[str, list[Curve]]:
    """
    Return the training curves of a release by metric, one per SAE, sorted by SAE id.

    A curve has at most ``points`` points, evenly chosen among the recorded steps, the first
    and the last included. A metric without any value is left out; a release without
    training records, for example of SAELens alone, has no curves.

    Raises:
        InputError: if a record is damaged.
    """
    if not any(Path(release, RECORDS).rglob("*.jsonl")):
        return {}
    records = load_records(release)
    found: dict[str, list[Curve]] = {}
    for metric in METRICS:
        if metric not in records or not any(map(_is_finite, records[metric])):
            continue
        found[metric] = [
            _curve(str(sae_id), rows.dropna(subset=["tokens"]), metric, points)
            for sae_id, rows in records.groupby("sae_id", sort=True)
        ]
    return found


def _curve(sae_id: str, rows: pd.DataFrame, metric: str, points: int) -> Curve:
    """Return one curve of rows in the order of their steps."""
    chosen = rows.iloc[even_indices(len(rows), points)]
    return {
        "sae": sae_id,
        "x": [int(step) for step in chosen["step"]],
        "y": [float(value) if _is_finite(value) else None for value in chosen[metric]],
    }


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def even_indices(count: int, most: int) -> list[int]:
    """Return at most ``most`` indices below ``count``, evenly spread, first and last included."""
    if count <= most:
        return list(range(count))
    if most < 2:
        return [count - 1][:most]
    return [round(number * (count - 1) / (most - 1)) for number in range(most)]
