"""Settings of the vocabulary evaluation."""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseEvalConfig

from eval_recipes.results.metrics import setting
from saereg_plugin.metrics import ALIVE_THRESHOLD
from saereg_plugin.metrics.similarity import ALIGNED_THRESHOLD

EVAL = "vocabulary"


@dataclass
class VocabularyEvalConfig(BaseEvalConfig):
    """Settings of one run; the same for all its SAEs."""

    random_seed: int = setting(
        0, "Random Seed", "Seed of the bootstrap and of the random dictionary"
    )
    n_resamples: int = setting(
        1000, "Bootstrap Resamples", "Resamples behind each interval", ge=1
    )
    aligned_threshold: float = setting(
        ALIGNED_THRESHOLD,
        "Aligned Threshold",
        "A latent is aligned if its largest cosine to an embedding is at least this",
        gt=0,
        le=1,
    )
    alive_threshold: float = setting(
        ALIVE_THRESHOLD,
        "Alive Threshold",
        "A latent is alive if cos(encoder, decoder) exceeds this",
    )
    embeddings: str | None = setting(
        None,
        "Embeddings",
        "A safetensors file, path or path::tensor; null takes each SAE's own model",
    )
