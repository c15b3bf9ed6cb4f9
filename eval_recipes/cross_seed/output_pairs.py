"""Metrics of the cross-seed output that compare SAEs of several seeds."""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics

from eval_recipes.results.metrics import count, high, low, value


@dataclass
class SimilarityMetrics(BaseMetrics):
    """Cosine similarity of the latents of two seeds."""

    mean_max_cos: float | None = value(
        "Mean Max Cosine",
        "Mean of the decoder's and the encoder's mean max cosine (arXiv 2603.04198)",
        display=True,
    )
    mean_max_cos_ci_low: float | None = low("Mean Max Cosine")
    mean_max_cos_ci_high: float | None = high("Mean Max Cosine")
    mean_max_cos_n: int = count("Mean Max Cosine")
    mean_max_cos_decoder: float | None = value(
        "Mean Max Cosine, Decoder",
        "(mean_i max_j S_ij + mean_j max_i S_ij) / 2, S the |cosine| of decoder rows",
    )
    mean_max_cos_decoder_ci_low: float | None = low("Mean Max Cosine, Decoder")
    mean_max_cos_decoder_ci_high: float | None = high("Mean Max Cosine, Decoder")
    mean_max_cos_decoder_n: int = count("Mean Max Cosine, Decoder")
    mean_max_cos_encoder: float | None = value(
        "Mean Max Cosine, Encoder",
        "The same for encoder columns",
    )
    mean_max_cos_encoder_ci_low: float | None = low("Mean Max Cosine, Encoder")
    mean_max_cos_encoder_ci_high: float | None = high("Mean Max Cosine, Encoder")
    mean_max_cos_encoder_n: int = count("Mean Max Cosine, Encoder")
    fraction_paired: float | None = value(
        "Fraction Paired",
        "Share of latents whose best decoder |cosine| in the other seed exceeds the shared threshold (one-sided, as published)",
        display=True,
    )
    fraction_paired_ci_low: float | None = low("Fraction Paired")
    fraction_paired_ci_high: float | None = high("Fraction Paired")
    fraction_paired_n: int = count("Fraction Paired")
    fraction_paired_symmetrised: float | None = value(
        "Fraction Paired, Symmetrised",
        "Mean of the shares from either side",
    )
    fraction_paired_symmetrised_ci_low: float | None = low(
        "Fraction Paired, Symmetrised"
    )
    fraction_paired_symmetrised_ci_high: float | None = high(
        "Fraction Paired, Symmetrised"
    )
    fraction_paired_symmetrised_n: int = count("Fraction Paired, Symmetrised")
    pw_mcc_signed: float | None = value(
        "PW-MCC, Signed",
        "Mean matched cosine of decoder rows, matched by signed cosine (arXiv 2505.20254)",
    )
    pw_mcc_signed_ci_low: float | None = low("PW-MCC, Signed")
    pw_mcc_signed_ci_high: float | None = high("PW-MCC, Signed")
    pw_mcc_signed_n: int = count("PW-MCC, Signed")
    pw_mcc_absolute: float | None = value(
        "PW-MCC, Absolute",
        "Mean matched |cosine| of decoder rows, matched by |cosine|",
    )
    pw_mcc_absolute_ci_low: float | None = low("PW-MCC, Absolute")
    pw_mcc_absolute_ci_high: float | None = high("PW-MCC, Absolute")
    pw_mcc_absolute_n: int = count("PW-MCC, Absolute")


@dataclass
class SharedMetrics(BaseMetrics):
    """Latents that decoder and encoder match to the same latent."""

    shared: float | None = value(
        "Shared, All Latents",
        "Share of latents whose decoder and encoder have the same Hungarian partner, both at |cosine| above the shared threshold",
        display=True,
    )
    shared_ci_low: float | None = low("Shared, All Latents")
    shared_ci_high: float | None = high("Shared, All Latents")
    shared_n: int = count("Shared, All Latents")
    shared_alive: float | None = value(
        "Shared, Alive Latents",
        "The same after leaving out dead latents of each SAE, over the smaller alive count",
        display=True,
    )
    shared_alive_ci_low: float | None = low("Shared, Alive Latents")
    shared_alive_ci_high: float | None = high("Shared, Alive Latents")
    shared_alive_n: int = count("Shared, Alive Latents")


@dataclass
class StabilityMetrics(BaseMetrics):
    """In how many other seeds a latent comes back."""

    always_shared: float | None = value(
        "Always Shared",
        "Share of this SAE's latents shared with every other seed",
    )
    always_shared_ci_low: float | None = low("Always Shared")
    always_shared_ci_high: float | None = high("Always Shared")
    always_shared_n: int = count("Always Shared")
    sometimes_shared: float | None = value(
        "Sometimes Shared",
        "Share of latents shared with some other seeds, not all",
    )
    sometimes_shared_ci_low: float | None = low("Sometimes Shared")
    sometimes_shared_ci_high: float | None = high("Sometimes Shared")
    sometimes_shared_n: int = count("Sometimes Shared")
    never_shared: float | None = value(
        "Never Shared",
        "Share of latents shared with no other seed",
    )
    never_shared_ci_low: float | None = low("Never Shared")
    never_shared_ci_high: float | None = high("Never Shared")
    never_shared_n: int = count("Never Shared")
    always_shared_alive: float | None = value(
        "Always Shared, Alive",
        "Share of this SAE's alive latents shared with every other seed",
    )
    always_shared_alive_ci_low: float | None = low("Always Shared, Alive")
    always_shared_alive_ci_high: float | None = high("Always Shared, Alive")
    always_shared_alive_n: int = count("Always Shared, Alive")
    sometimes_shared_alive: float | None = value(
        "Sometimes Shared, Alive",
        "Share of alive latents shared with some other seeds, not all",
    )
    sometimes_shared_alive_ci_low: float | None = low("Sometimes Shared, Alive")
    sometimes_shared_alive_ci_high: float | None = high("Sometimes Shared, Alive")
    sometimes_shared_alive_n: int = count("Sometimes Shared, Alive")
    never_shared_alive: float | None = value(
        "Never Shared, Alive",
        "Share of alive latents shared with no other seed",
    )
    never_shared_alive_ci_low: float | None = low("Never Shared, Alive")
    never_shared_alive_ci_high: float | None = high("Never Shared, Alive")
    never_shared_alive_n: int = count("Never Shared, Alive")
