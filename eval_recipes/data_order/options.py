"""Settings of an order of texts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from eval_recipes.data_order.features import Kind, Pool
from saereg_plugin.checks import MAX_SEED, checked_dataclass

MOST_CLUSTERS = 1000


@checked_dataclass
class OrderOptions:
    """What decides clusters, scores and order; the constants are this project's own."""

    pool: Pool = "mean"
    """How the latents of a text's tokens become one vector: mean, max, or share that fires."""
    most_tokens: Annotated[int, Field(ge=2, le=1 << 20)] = 512
    """Texts are cut at as many tokens."""
    score_by: Kind = "sae"
    """Features whose probes score the texts of the order."""
    clusters: Annotated[int, Field(ge=2, le=MOST_CLUSTERS)] | None = None
    """Number of clusters; None for the one with the highest silhouette."""
    batch_size: Annotated[int, Field(ge=1, le=1 << 20)] = 32
    """Texts of a batch."""
    mixing: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of a batch that is drawn from all clusters."""
    stages: Annotated[int, Field(ge=1, le=1 << 20)] = 4
    """Stages from easy to hard."""
    least_quality: float = 0.5
    """Predicted quality below which a text is left out; labelled bad ones have 0 on average."""
    permutations: Annotated[int, Field(ge=0, le=10_000)] = 20
    """Shuffles of the labels."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    """Of clusters, folds, shuffles, resamples and batches."""
