"""Metrics against L0, and the SAEs that none surpasses in both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval_recipes.results.headlines import L0, Metric

SAE = ["release", "sae_id"]
"""Columns that name one SAE."""

KIND = ["architecture", "penalty"]
"""Columns that a front is drawn for."""


def points(frame: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """
    Return one row an SAE: columns SAE, KIND, group, seed, ``l0``, ``value``, ``low``, ``high``, ``front``, ``outdated``.

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
    """Return the name of a front, such as "topk, l2 0.006"; what is missing is left out."""
    parts = [str(part) for part in (architecture, penalty) if not pd.isna(part)]
    return ", ".join(parts) or "unknown"


def last_values(frame: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return the rows of a metric, one an SAE: the last that has a value."""
    rows = frame.loc[
        (frame["eval"] == metric.eval)
        & (frame["metric"] == metric.metric)
        & frame["value"].notna()
    ]
    return rows.drop_duplicates(SAE, keep="last")
