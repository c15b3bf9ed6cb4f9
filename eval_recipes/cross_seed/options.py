"""Settings of the cross-seed evaluation."""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseEvalConfig

from eval_recipes.results.metrics import setting
from saereg_plugin.metrics import ALIVE_THRESHOLD, SHARED_THRESHOLD


@dataclass
class CrossSeedEvalConfig(BaseEvalConfig):
    """Settings of one run; the same for all its SAEs."""

    random_seed: int = setting(
        0, "Random Seed", "Seed of the bootstrap and of the random dictionaries"
    )
    n_resamples: int = setting(
        1000,
        "Bootstrap Resamples",
        "Resamples behind each bootstrap interval over latents",
        ge=1,
    )
    shared_threshold: float = setting(
        SHARED_THRESHOLD,
        "Shared Threshold",
        "A latent is paired or shared if its |cosine| exceeds this",
    )
    alive_threshold: float = setting(
        ALIVE_THRESHOLD,
        "Alive Threshold",
        "A latent is alive if cos(encoder, decoder) exceeds this",
    )
    matching_threads: int = setting(
        1,
        "Matching Threads",
        "Pairs of SAEs matched at a time; each takes the memory of two matchings",
        ge=1,
    )
    matching_relative_gap: float = setting(
        0.0,
        "Matching Relative Gap",
        "A matching may stop when its total is proven to be within this share of the largest; 0 demands the optimum",
        ge=0,
        lt=1,
    )
    stable_minimum: float = setting(
        0.5,
        "Stable Minimum",
        "A latent is stable if it is shared with at least this share of the other seeds",
        gt=0,
        le=1,
    )
    reconstruction_shares: bool = setting(
        True,
        "Reconstruction Shares",
        "Measure on held-out inputs what stable latents carry, how latents fire, and the null of Gaussian rows",
    )
    null_draws: int = setting(
        5,
        "Null Draws",
        "Draws of rows and of latents behind each null of the unstable subspaces",
        ge=1,
    )
    loss_contexts: int = setting(
        0,
        "Loss Contexts",
        "Held-out contexts on which the model's loss with parts of each SAE is measured, 16 passes of the model each; 0 leaves it out, as do other sources than a language model",
        ge=0,
    )
    corpus: str = setting("embedded", "Corpus", "Text of the held-out figures")
    heldout_tokens: int = setting(
        65_536, "Held-out Tokens", "Tokens of held-out text asked for"
    )
