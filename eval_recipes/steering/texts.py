"""The parquet table of texts next to a result."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from eval_recipes.results.sidecar import SideTable

EVAL = "steering"

TEXTS_SUFFIX = "_texts.parquet"
FACTS_SUFFIX = "_facts.parquet"

COLUMNS = {
    "latent": pa.int64(),
    "explanation": pa.string(),
    "interp_score": pa.float64(),
    "stability": pa.float64(),
    "shared_with": pa.string(),
    "arm": pa.string(),
    "amount": pa.float64(),
    "strength": pa.float64(),
    "prompt": pa.string(),
    "repeat": pa.int64(),
    "original": pa.string(),
    "text": pa.string(),
    "original_perplexity": pa.float64(),
    "perplexity": pa.float64(),
    "near_ties": pa.int64(),
}
"""
Columns except the judges', ``<judge>_score``, ``_success``, ``_status``, ``_reason``.

``shared_with`` holds the matching latents of other seeds, JSON, by seed. ``text`` is steered in
the arms ``steered`` and ``random``, and another unsteered text in the arms ``unsteered`` and
``calibration``. Null: the latent has no explanation, score or stability, or nothing was added.

Rows of the arm ``calibration`` are no result: a judge's threshold was learned from their scores.
Each pair has two, one per order. Their perplexities and the columns of judges that learned no
threshold are null.
"""

TEXTS = SideTable("Texts", EVAL, "texts", TEXTS_SUFFIX, COLUMNS)
"""``read`` takes the table's path or that of the result that names it."""

CALIBRATION = "calibration"


def read_texts(path: str | Path) -> pd.DataFrame:
    """Read the texts of one SAE, given their own path or a result's; see ``SideTable.read``."""
    return TEXTS.read(path)


def results_of(texts: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are results, without the calibration's rows."""
    return texts.loc[texts["arm"] != CALIBRATION]


def judges_of(texts: pd.DataFrame) -> list[str]:
    """Return the judges of a table of texts, in their order."""
    ends = "_status"
    return [name.removesuffix(ends) for name in texts.columns if name.endswith(ends)]
