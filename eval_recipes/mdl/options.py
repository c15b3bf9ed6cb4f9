"""Settings of the mdl evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseEvalConfig

from eval_recipes.results.metrics import setting

WidthUnit = Literal["output", "latent"]


@dataclass
class MdlEvalConfig(BaseEvalConfig):
    """Settings of one run; the same for all its SAEs."""

    random_seed: int = setting(0, "Random Seed", "Seed of the bootstrap")
    corpus: str = setting("embedded", "Corpus", "Held-out text of the run")
    heldout_tokens: int = setting(
        65_536, "Held-out Tokens", "Tokens that are read, special ones included", ge=1
    )
    epsilon: float = setting(
        0.01,
        "Epsilon",
        "Quantised codes may raise the mean squared error by this share of it",
        gt=0,
        le=1,
    )
    width_unit: WidthUnit = setting(
        "output",
        "Width Unit",
        "What the shared bin width is relative to: 'output', the spread of the activations, for "
        "each latent's contribution z ||d||; 'latent', the root mean square of each latent's own "
        "activations",
    )
    exchange_rate: float | None = setting(
        None,
        "Exchange Rate",
        "Bits per token that 1 % of the mean squared error is worth; null codes the residual as "
        "white Gaussian noise, d_in / 2 log2(1 + rise)",
        gt=0,
    )
    weight_bits: int = setting(
        16, "Weight Bits", "Bits per weight of the dictionary", ge=1, le=64
    )
    dictionary_tokens: int | None = setting(
        None,
        "Dictionary Tokens",
        "Tokens over which the dictionary is spread; null takes those that were read",
        ge=1,
    )
    n_resamples: int = setting(
        1000, "Bootstrap Resamples", "Resamples behind each interval", ge=1
    )
