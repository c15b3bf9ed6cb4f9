"""The table of scores of latents next to a result."""

from __future__ import annotations

from eval_recipes.results.sidecar import SideTable

EVAL = "attribution"
"""Name of the evaluation."""

TABLE_SUFFIX = "_latents.parquet"

COLUMNS = (
    *("latent", "fires", "score", "rank", "cumulative_share", "contribution"),
    *("effect", "core", "other_cores", "ablation_contexts", "predicted_rise"),
    *("true_rise", "sparsity", "sparsity_random"),
)

SCORES = SideTable("Table of latents", EVAL, "latents", TABLE_SUFFIX, COLUMNS)
"""One row per latent."""
