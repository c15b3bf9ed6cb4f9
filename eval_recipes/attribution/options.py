"""Settings of the attribution evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseEvalConfig

from eval_recipes.results.metrics import setting
from eval_recipes.statistics.blocks import FEWEST_BLOCKS
from saereg_plugin.metrics.ablation import FUTURE_TOKENS
from saereg_plugin.metrics.attribution import QUANTILE, Over

At = Literal["activations", "reconstruction"]


@dataclass
class AttributionEvalConfig(BaseEvalConfig):
    """Settings of one run; the same for all its SAEs."""

    random_seed: int = setting(
        0, "Random Seed", "Seed of the bootstrap, the sample of latents and the nulls"
    )
    corpus: str = setting("embedded", "Corpus", "Held-out text of the run")
    n_tokens: int = setting(
        16_384,
        "Tokens",
        "Held-out tokens whose gradients are computed, special ones included",
        ge=1,
    )
    at: At = setting(
        "activations",
        "Gradient At",
        "Where the gradient of the loss is taken: 'activations', those of the model, one pass for "
        "all SAEs on a hook; 'reconstruction', the SAE's own in their place, one pass per SAE",
    )
    quantile: float = setting(
        QUANTILE,
        "Quantile",
        "A latent's score is this quantile over tokens",
        ge=0,
        le=1,
    )
    over: Over = setting(
        "all",
        "Over",
        "Tokens of the quantile: 'all', where a latent that does not fire scores 0, or 'active', "
        "those where it fires",
    )
    overlap_share: float = setting(
        0.9,
        "Overlap Share",
        "Share of the total score that the cores reach which are compared across seeds",
        gt=0,
        le=1,
    )
    n_latents: int = setting(
        32,
        "Ablated Latents",
        "Latents that are removed to check the attribution; 0 leaves the check out",
        ge=0,
    )
    ablation_contexts: int = setting(
        4,
        "Ablation Contexts",
        "Most contexts in which a latent is removed; a pass of the model each",
        ge=1,
    )
    sparsity_places: int = setting(
        2,
        "Sparsity Places",
        "Tokens at which a latent is removed for its ablation sparsity, three passes of the model "
        "each; 0 leaves it out",
        ge=0,
    )
    future_tokens: int = setting(
        FUTURE_TOKENS,
        "Future Tokens",
        "T of the ablation sparsity: tokens whose logits are compared",
        ge=1,
    )
    matching_relative_gap: float = setting(
        0.0,
        "Matching Relative Gap",
        "A matching of seeds may stop when its total is proven to be within this share of the largest; 0 demands the optimum",
        ge=0,
        lt=1,
    )
    n_blocks: int = setting(
        20,
        "Blocks",
        "Blocks of neighbouring contexts; intervals of cores and overlaps leave out half of them at random",
        ge=FEWEST_BLOCKS,
    )
    n_resamples: int = setting(
        200,
        "Resamples",
        "Halves of the contexts behind intervals of cores and overlaps, and bootstrap resamples of latents behind the others",
        ge=1,
    )
