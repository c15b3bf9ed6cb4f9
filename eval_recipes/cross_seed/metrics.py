"""Metrics of the cross-seed output that describe one SAE."""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics

from eval_recipes.results.metrics import count, high, low, value


@dataclass
class DecoderGeometryMetrics(BaseMetrics):
    """Cosines between the decoder rows of one SAE."""

    c_dec: float | None = value(
        "c_dec",
        "Mean |cosine| of different decoder rows (arXiv 2508.16560)",
        display=True,
    )
    c_dec_ci_low: float | None = low("c_dec")
    c_dec_ci_high: float | None = high("c_dec")
    c_dec_n: int = count("c_dec")
    mean_cos_sim: float | None = value(
        "MeanCosSim",
        "Mean over decoder rows of the largest signed cosine to another",
    )
    mean_cos_sim_ci_low: float | None = low("MeanCosSim")
    mean_cos_sim_ci_high: float | None = high("MeanCosSim")
    mean_cos_sim_n: int = count("MeanCosSim")
    max_abs_cos: float | None = value(
        "Max |Cosine|",
        "Largest |cosine| of different decoder rows; exact, no interval within an SAE",
    )
    max_abs_cos_ci_low: float | None = low("Max |Cosine|")
    max_abs_cos_ci_high: float | None = high("Max |Cosine|")
    max_abs_cos_n: int = count("Max |Cosine|")
    median_abs_cos: float | None = value(
        "Median of |Cosine|",
        "Median of |cosine| of different decoder rows, to 1e-4; no interval within an SAE",
    )
    median_abs_cos_ci_low: float | None = low("Median of |Cosine|")
    median_abs_cos_ci_high: float | None = high("Median of |Cosine|")
    median_abs_cos_n: int = count("Median of |Cosine|")
    p90_abs_cos: float | None = value(
        "90 % Quantile of |Cosine|",
        "90 % Quantile of |cosine| of different decoder rows, to 1e-4; no interval within an SAE",
    )
    p90_abs_cos_ci_low: float | None = low("90 % Quantile of |Cosine|")
    p90_abs_cos_ci_high: float | None = high("90 % Quantile of |Cosine|")
    p90_abs_cos_n: int = count("90 % Quantile of |Cosine|")
    p99_abs_cos: float | None = value(
        "99 % Quantile of |Cosine|",
        "99 % Quantile of |cosine| of different decoder rows, to 1e-4; no interval within an SAE",
    )
    p99_abs_cos_ci_low: float | None = low("99 % Quantile of |Cosine|")
    p99_abs_cos_ci_high: float | None = high("99 % Quantile of |Cosine|")
    p99_abs_cos_n: int = count("99 % Quantile of |Cosine|")


@dataclass
class AliveDecoderGeometryMetrics(BaseMetrics):
    """The same between the decoder rows of alive latents."""

    c_dec_alive: float | None = value(
        "c_dec, Alive",
        "Mean |cosine| of different alive decoder rows (arXiv 2508.16560)",
    )
    c_dec_alive_ci_low: float | None = low("c_dec, Alive")
    c_dec_alive_ci_high: float | None = high("c_dec, Alive")
    c_dec_alive_n: int = count("c_dec, Alive")
    mean_cos_sim_alive: float | None = value(
        "MeanCosSim, Alive",
        "Mean over alive decoder rows of the largest signed cosine to another",
    )
    mean_cos_sim_alive_ci_low: float | None = low("MeanCosSim, Alive")
    mean_cos_sim_alive_ci_high: float | None = high("MeanCosSim, Alive")
    mean_cos_sim_alive_n: int = count("MeanCosSim, Alive")
    max_abs_cos_alive: float | None = value(
        "Max |Cosine|, Alive",
        "Largest |cosine| of different alive decoder rows; exact, no interval within an SAE",
    )
    max_abs_cos_alive_ci_low: float | None = low("Max |Cosine|, Alive")
    max_abs_cos_alive_ci_high: float | None = high("Max |Cosine|, Alive")
    max_abs_cos_alive_n: int = count("Max |Cosine|, Alive")
    median_abs_cos_alive: float | None = value(
        "Median of |Cosine|, Alive",
        "Median of |cosine| of different alive decoder rows, to 1e-4; no interval within an SAE",
    )
    median_abs_cos_alive_ci_low: float | None = low("Median of |Cosine|, Alive")
    median_abs_cos_alive_ci_high: float | None = high("Median of |Cosine|, Alive")
    median_abs_cos_alive_n: int = count("Median of |Cosine|, Alive")
    p90_abs_cos_alive: float | None = value(
        "90 % Quantile of |Cosine|, Alive",
        "90 % Quantile of |cosine| of different alive decoder rows, to 1e-4; no interval within an SAE",
    )
    p90_abs_cos_alive_ci_low: float | None = low("90 % Quantile of |Cosine|, Alive")
    p90_abs_cos_alive_ci_high: float | None = high("90 % Quantile of |Cosine|, Alive")
    p90_abs_cos_alive_n: int = count("90 % Quantile of |Cosine|, Alive")
    p99_abs_cos_alive: float | None = value(
        "99 % Quantile of |Cosine|, Alive",
        "99 % Quantile of |cosine| of different alive decoder rows, to 1e-4; no interval within an SAE",
    )
    p99_abs_cos_alive_ci_low: float | None = low("99 % Quantile of |Cosine|, Alive")
    p99_abs_cos_alive_ci_high: float | None = high("99 % Quantile of |Cosine|, Alive")
    p99_abs_cos_alive_n: int = count("99 % Quantile of |Cosine|, Alive")


@dataclass
class EncoderDecoderMetrics(BaseMetrics):
    """Encoder against decoder, alive latents."""

    encoder_decoder_cos: float | None = value(
        "Encoder-Decoder Cosine",
        "Mean cosine of each latent's encoder and decoder vector",
    )
    encoder_decoder_cos_ci_low: float | None = low("Encoder-Decoder Cosine")
    encoder_decoder_cos_ci_high: float | None = high("Encoder-Decoder Cosine")
    encoder_decoder_cos_n: int = count("Encoder-Decoder Cosine")
    alive_by_weights: float | None = value(
        "Alive Latents by Weights",
        "Latents whose encoder-decoder cosine exceeds the alive threshold; n is all latents",
    )
    alive_by_weights_ci_low: float | None = low("Alive Latents by Weights")
    alive_by_weights_ci_high: float | None = high("Alive Latents by Weights")
    alive_by_weights_n: int = count("Alive Latents by Weights")
    dead_by_weights: float | None = value(
        "Dead Latents by Weights",
        "The other latents",
    )
    dead_by_weights_ci_low: float | None = low("Dead Latents by Weights")
    dead_by_weights_ci_high: float | None = high("Dead Latents by Weights")
    dead_by_weights_n: int = count("Dead Latents by Weights")


@dataclass
class LatentGeometryMetrics(EncoderDecoderMetrics):
    """The same, and norms."""

    decoder_norm: float | None = value(
        "Decoder Norm",
        "Mean norm of the decoder rows, in the units of the weights",
    )
    decoder_norm_ci_low: float | None = low("Decoder Norm")
    decoder_norm_ci_high: float | None = high("Decoder Norm")
    decoder_norm_n: int = count("Decoder Norm")


@dataclass
class HeldOutMetrics(BaseMetrics):
    """Figures on held-out text; intervals of one SAE are over contexts."""

    explained_variance: float | None = value(
        "Explained Variance",
        "1 - residual / variance about the mean, special tokens left out",
        display=True,
    )
    explained_variance_ci_low: float | None = low("Explained Variance")
    explained_variance_ci_high: float | None = high("Explained Variance")
    explained_variance_n: int = count("Explained Variance")
    explained_variance_with_bos: float | None = value(
        "Explained Variance With BOS",
        "The same with special tokens",
    )
    explained_variance_with_bos_ci_low: float | None = low(
        "Explained Variance With BOS"
    )
    explained_variance_with_bos_ci_high: float | None = high(
        "Explained Variance With BOS"
    )
    explained_variance_with_bos_n: int = count("Explained Variance With BOS")
    l0: float | None = value(
        "L0",
        "Mean number of latents that are not zero on a token",
        display=True,
    )
    l0_ci_low: float | None = low("L0")
    l0_ci_high: float | None = high("L0")
    l0_n: int = count("L0")
    alive: float | None = value(
        "Alive Latents on Text",
        "Latents that fired at least once; n is the number of tokens",
    )
    alive_ci_low: float | None = low("Alive Latents on Text")
    alive_ci_high: float | None = high("Alive Latents on Text")
    alive_n: int = count("Alive Latents on Text")


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


@dataclass
class StableLatentMetrics(BaseMetrics):
    """How many latents are stable."""

    stable_latents: float | None = value(
        "Stable Latents",
        "Share of latents that are stable, of all; intervals: bootstrap over latents",
    )
    stable_latents_ci_low: float | None = low("Stable Latents")
    stable_latents_ci_high: float | None = high("Stable Latents")
    stable_latents_n: int = count("Stable Latents")


@dataclass
class ReconstructionMetrics(StableLatentMetrics):
    """What stable latents carry of the reconstruction of held-out text."""

    explained_variance_stable: float | None = value(
        "Explained Variance, Stable Latents Only",
        "Explained variance with every latent that is not stable set to zero",
        display=True,
    )
    explained_variance_stable_ci_low: float | None = low(
        "Explained Variance, Stable Latents Only"
    )
    explained_variance_stable_ci_high: float | None = high(
        "Explained Variance, Stable Latents Only"
    )
    explained_variance_stable_n: int = count("Explained Variance, Stable Latents Only")
    explained_variance_unstable: float | None = value(
        "Explained Variance, Unstable Latents Only",
        "Explained variance with every stable latent set to zero",
    )
    explained_variance_unstable_ci_low: float | None = low(
        "Explained Variance, Unstable Latents Only"
    )
    explained_variance_unstable_ci_high: float | None = high(
        "Explained Variance, Unstable Latents Only"
    )
    explained_variance_unstable_n: int = count(
        "Explained Variance, Unstable Latents Only"
    )
    variance_share_stable: float | None = value(
        "Share of Reconstructed Variance, Stable",
        "Covariance of the stable latents' sum with the reconstruction over the reconstruction's variance; unstable latents carry 1 minus it",
        display=True,
    )
    variance_share_stable_ci_low: float | None = low(
        "Share of Reconstructed Variance, Stable"
    )
    variance_share_stable_ci_high: float | None = high(
        "Share of Reconstructed Variance, Stable"
    )
    variance_share_stable_n: int = count("Share of Reconstructed Variance, Stable")
    contribution_share_stable: float | None = value(
        "Share of Squared Contributions, Stable",
        "Sum of squared norms of activation times decoder vector over stable latents, over that of all; unstable latents carry 1 minus it",
    )
    contribution_share_stable_ci_low: float | None = low(
        "Share of Squared Contributions, Stable"
    )
    contribution_share_stable_ci_high: float | None = high(
        "Share of Squared Contributions, Stable"
    )
    contribution_share_stable_n: int = count("Share of Squared Contributions, Stable")
    firing_share_stable: float | None = value(
        "Share of Firings, Stable",
        "Share of non-zero activations that are stable latents': what a random set that fires as often would carry",
    )
    firing_share_stable_ci_low: float | None = low("Share of Firings, Stable")
    firing_share_stable_ci_high: float | None = high("Share of Firings, Stable")
    firing_share_stable_n: int = count("Share of Firings, Stable")


@dataclass
class SubspaceMetrics(BaseMetrics):
    """Overlap of the subspaces that two seeds' unstable latents span."""

    unstable_overlap: float | None = value(
        "Overlap of Unstable Subspaces",
        "||U_r' V_r||_F^2 / r of the first r left singular vectors of two seeds' unstable decoder blocks (after arXiv 2606.12138), r the largest power of 2 in d_in / 8; null where a block has a lower rank",
        display=True,
    )
    unstable_overlap_ci_low: float | None = low("Overlap of Unstable Subspaces")
    unstable_overlap_ci_high: float | None = high("Overlap of Unstable Subspaces")
    unstable_overlap_n: int = count("Overlap of Unstable Subspaces")


@dataclass
class RandomSubspaceMetrics(BaseMetrics):
    """What two random subspaces of the same rank reach."""

    unstable_overlap_rank: int = value(
        "Rank of the Overlap", "r, the dimension of the subspaces compared"
    )
    unstable_overlap_random: float = value(
        "Overlap of Random Subspaces", "r / d_in, its mean"
    )
    unstable_overlap_random_std: float = value(
        "Overlap of Random Subspaces (Standard Deviation)",
        "Of one pair of independent uniformly random subspaces",
    )
