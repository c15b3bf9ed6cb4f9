"""Settings of the cross-seed evaluation."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseEvalConfig

from saereg_plugin.metrics import ALIVE_THRESHOLD, SHARED_THRESHOLD


@dataclass
class CrossSeedEvalConfig(BaseEvalConfig):
    """Settings of one run; the same for all its SAEs."""

    random_seed: int = Field(
        default=0,
        title="Random Seed",
        description="Seed of the bootstrap and of the random dictionaries",
    )
    n_resamples: int = Field(
        default=1000,
        ge=1,
        title="Bootstrap Resamples",
        description="Resamples behind each bootstrap interval over latents",
    )
    shared_threshold: float = Field(
        default=SHARED_THRESHOLD,
        title="Shared Threshold",
        description="A latent is paired or shared if its |cosine| exceeds this",
    )
    alive_threshold: float = Field(
        default=ALIVE_THRESHOLD,
        title="Alive Threshold",
        description="A latent is alive if cos(encoder, decoder) exceeds this",
    )
    matching_threads: int = Field(
        default=1,
        ge=1,
        title="Matching Threads",
        description="Pairs of SAEs matched at a time; each takes the memory of two matchings",
    )
    matching_relative_gap: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="Matching Relative Gap",
        description="A matching may stop when its total is proven to be within this share of the largest; 0 demands the optimum",
    )
    stable_minimum: float = Field(
        default=0.5,
        gt=0,
        le=1,
        title="Stable Minimum",
        description="A latent is stable if it is shared with at least this share of the other seeds",
    )
    reconstruction_shares: bool = Field(
        default=True,
        title="Reconstruction Shares",
        description="Measure on held-out text what stable latents carry; needs the language model",
    )
    corpus: str = Field(
        default="embedded",
        title="Corpus",
        description="Text of the held-out figures",
    )
    heldout_tokens: int = Field(
        default=65_536,
        title="Held-out Tokens",
        description="Tokens of held-out text asked for",
    )
