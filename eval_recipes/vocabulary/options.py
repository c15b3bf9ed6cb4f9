"""Settings of the vocabulary evaluation."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseEvalConfig

from saereg_plugin.metrics import ALIVE_THRESHOLD
from saereg_plugin.metrics.similarity import ALIGNED_THRESHOLD

EVAL = "vocabulary"


@dataclass
class VocabularyEvalConfig(BaseEvalConfig):
    """Settings of one run; the same for all its SAEs."""

    random_seed: int = Field(
        default=0,
        title="Random Seed",
        description="Seed of the bootstrap and of the random dictionary",
    )
    n_resamples: int = Field(
        default=1000,
        ge=1,
        title="Bootstrap Resamples",
        description="Resamples behind each interval",
    )
    aligned_threshold: float = Field(
        default=ALIGNED_THRESHOLD,
        gt=0,
        le=1,
        title="Aligned Threshold",
        description="A latent is aligned if its largest cosine to an embedding is at least this",
    )
    alive_threshold: float = Field(
        default=ALIVE_THRESHOLD,
        title="Alive Threshold",
        description="A latent is alive if cos(encoder, decoder) exceeds this",
    )
    embeddings: str | None = Field(
        default=None,
        title="Embeddings",
        description="A safetensors file, path or path::tensor; null takes each SAE's own model",
    )
