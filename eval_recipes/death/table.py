"""The table of dead latents next to a result."""

from __future__ import annotations

from eval_recipes.results.sidecar import SideTable

EVAL = "death"
"""Name of the evaluation."""

TABLE_SUFFIX = "_latents.parquet"

ALIVE, NEVER, DIED, UNKNOWN = "alive", "never fired", "fired then died", "dead"
"""Causes in the table; ``UNKNOWN`` where the release does not record its training's firing."""
RELU, SELECTION = "relu", "selection"
"""Pathways in the table: no pre-activation above 0, or one that was never selected."""

DEATHS = SideTable(
    what="Table of dead latents",
    eval=EVAL,
    field="latents",
    ending=TABLE_SUFFIX,
    columns=("latent", "cause", "pathway", "encoder_ratio", "collapsed"),
)
"""Table next to each result, a row per latent."""
