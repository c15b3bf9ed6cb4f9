"""What the cross-seed output says of one pair of SAEs."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseResultDetail

from eval_recipes.results.metrics import count, high, low, value


@dataclass
class MatchingGaps:
    """
    By how much the total similarity of each matching may lie below the optimum.

    Proven from dual prices that were checked against all pairs of latents; 0 is exact.
    """

    decoder: float = value("Gap, Decoder", "Decoder rows by |cosine|")
    decoder_relative: float = value(
        "Relative Gap, Decoder", "Decoder rows by |cosine|, over the total similarity"
    )
    encoder: float = value("Gap, Encoder", "Encoder columns by |cosine|")
    encoder_relative: float = value(
        "Relative Gap, Encoder",
        "Encoder columns by |cosine|, over the total similarity",
    )
    decoder_signed: float = value(
        "Gap, Decoder Signed", "Decoder rows by signed cosine"
    )
    decoder_signed_relative: float = value(
        "Relative Gap, Decoder Signed",
        "Decoder rows by signed cosine, over the total similarity",
    )
    decoder_alive: float = value(
        "Gap, Decoder Alive", "Alive latents' decoder rows by |cosine|"
    )
    decoder_alive_relative: float = value(
        "Relative Gap, Decoder Alive",
        "Alive latents' decoder rows by |cosine|, over the total similarity",
    )
    encoder_alive: float = value(
        "Gap, Encoder Alive", "Alive latents' encoder columns by |cosine|"
    )
    encoder_alive_relative: float = value(
        "Relative Gap, Encoder Alive",
        "Alive latents' encoder columns by |cosine|, over the total similarity",
    )


@dataclass
class UnstableOverlap:
    """||U_r' V_r||_F^2 / r of the unstable latents' subspaces, against random ones."""

    ranks: list[int] = Field(title="Ranks", description="r")
    overlap: list[float | None] = Field(
        title="Overlap", description="By rank; null beyond the rank of either block"
    )
    random: list[float] = Field(title="Random Overlap", description="r / d_in")
    random_std: list[float] = Field(
        title="Random Overlap (Standard Deviation)",
        description="Of one pair of independent uniformly random subspaces",
    )


@dataclass
class CrossSeedPair(BaseResultDetail):
    """This SAE (A) and one other seed (B); intervals: bootstrap over latents."""

    sae_ids: list[str] = Field(title="SAEs", description="Ids of A and B")
    seeds: list[int] = Field(title="Seeds", description="Seeds of A and B")
    alive_by_weights: list[int] = Field(
        title="Alive Latents by Weights", description="Of A and B"
    )
    matching_gaps: MatchingGaps = Field(
        title="Certified Gaps", description="Of each matching behind the figures"
    )
    unstable_overlap: UnstableOverlap = Field(
        title="Overlap of Unstable Subspaces", description="By rank"
    )
    mean_max_cos: float = value("Mean Max Cosine", "Both sides")
    mean_max_cos_ci_low: float | None = low("Mean Max Cosine")
    mean_max_cos_ci_high: float | None = high("Mean Max Cosine")
    mean_max_cos_n: int = count("Mean Max Cosine")
    mean_max_cos_decoder: float = value("Mean Max Cosine, Decoder", "Both sides")
    mean_max_cos_decoder_ci_low: float | None = low("Mean Max Cosine, Decoder")
    mean_max_cos_decoder_ci_high: float | None = high("Mean Max Cosine, Decoder")
    mean_max_cos_decoder_n: int = count("Mean Max Cosine, Decoder")
    mean_max_cos_encoder: float = value("Mean Max Cosine, Encoder", "Both sides")
    mean_max_cos_encoder_ci_low: float | None = low("Mean Max Cosine, Encoder")
    mean_max_cos_encoder_ci_high: float | None = high("Mean Max Cosine, Encoder")
    mean_max_cos_encoder_n: int = count("Mean Max Cosine, Encoder")
    fraction_paired: float = value("Fraction Paired", "Latents of A paired in B")
    fraction_paired_ci_low: float | None = low("Fraction Paired")
    fraction_paired_ci_high: float | None = high("Fraction Paired")
    fraction_paired_n: int = count("Fraction Paired")
    fraction_paired_symmetrised: float = value(
        "Fraction Paired, Symmetrised", "Mean of both sides"
    )
    fraction_paired_symmetrised_ci_low: float | None = low(
        "Fraction Paired, Symmetrised"
    )
    fraction_paired_symmetrised_ci_high: float | None = high(
        "Fraction Paired, Symmetrised"
    )
    fraction_paired_symmetrised_n: int = count("Fraction Paired, Symmetrised")
    pw_mcc_signed: float = value("PW-MCC, Signed", "Mean matched signed decoder cosine")
    pw_mcc_signed_ci_low: float | None = low("PW-MCC, Signed")
    pw_mcc_signed_ci_high: float | None = high("PW-MCC, Signed")
    pw_mcc_signed_n: int = count("PW-MCC, Signed")
    pw_mcc_absolute: float = value("PW-MCC, Absolute", "Mean matched |decoder cosine|")
    pw_mcc_absolute_ci_low: float | None = low("PW-MCC, Absolute")
    pw_mcc_absolute_ci_high: float | None = high("PW-MCC, Absolute")
    pw_mcc_absolute_n: int = count("PW-MCC, Absolute")
    shared: float = value("Shared, All Latents", "Of all latents")
    shared_ci_low: float | None = low("Shared, All Latents")
    shared_ci_high: float | None = high("Shared, All Latents")
    shared_n: int = count("Shared, All Latents")
    shared_alive: float | None = value(
        "Shared, Alive Latents", "Over the smaller alive count; null if it is 0"
    )
    shared_alive_ci_low: float | None = low("Shared, Alive Latents")
    shared_alive_ci_high: float | None = high("Shared, Alive Latents")
    shared_alive_n: int = count("Shared, Alive Latents")
