"""Tables of results with planted figures, for studies that nobody trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from eval_recipes.results.tidy import COLUMNS
from eval_recipes.studies.framework.definition import Column

Figures = Mapping[str, Mapping[Column, Sequence[float]]]
"""By group and column, one value a seed 0, 1, 2, ..."""


def planted_frame(
    figures: Figures, *, stage: str = "saes", first_seed: int = 0
) -> pd.DataFrame:
    """Return the tidy table of these figures."""
    rows: list[dict[str, Any]] = [
        {
            "release": "planted",
            "group": group,
            "seed": seed,
            "sae_id": f"{group}-seed{seed}",
            "eval": column.eval,
            "metric": column.metric,
            "value": value,
        }
        for group, columns in figures.items()
        for column, values in columns.items()
        for seed, value in enumerate(values, start=first_seed)
    ]
    frame = pd.DataFrame(rows, columns=pd.Index(COLUMNS)).assign(stage=stage)
    return frame.astype({"value": "float64", "seed": "Int64", "n": "Int64"})
