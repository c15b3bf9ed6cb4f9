"""The table of codes of latents next to a result."""

from __future__ import annotations

from eval_recipes.results.sidecar import SideTable

EVAL = "mdl"
"""Name of the evaluation."""

TABLE_SUFFIX = "_latents.parquet"

COLUMNS = (
    *("latent", "fires", "firing_bits", "value_bits", "cost", "gain", "relative_gain"),
    *("worth", "net", "net_low", "net_high", "break_even", "pays"),
)

BALANCE = SideTable("Table of latents", EVAL, "latents", TABLE_SUFFIX, COLUMNS)
"""One row per latent."""
