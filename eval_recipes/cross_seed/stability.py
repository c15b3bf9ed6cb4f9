"""The parquet table of stability next to a result, and its reader."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from eval_recipes.results.sidecar import SideTable

TABLE_SUFFIX = "_stability.parquet"

STABILITY = SideTable(
    "Stability table",
    "cross_seed",
    "stability_table",
    TABLE_SUFFIX,
    ("latent", "alive", "stability"),
)
"""One row per latent; ``read`` takes its path or that of the result that names it."""


def read_stability(path: str | Path) -> pd.DataFrame:
    """Read a stability table, given its own path or that of a result; see ``SideTable.read``."""
    return STABILITY.read(path)
