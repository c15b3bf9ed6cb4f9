"""Metrics of the cross-seed output."""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics

from eval_recipes.results.metrics import metric, metric_class, value

PAIR_METRICS = (
    "mean_max_cos",
    "mean_max_cos_decoder",
    "mean_max_cos_encoder",
    "fraction_paired",
    "fraction_paired_symmetrised",
    "pw_mcc_signed",
    "pw_mcc_absolute",
    "shared",
    "shared_alive",
)
"""Metrics that are measured in pairs of SAEs."""

OVERLAPS = (
    "unstable_overlap",
    "unstable_overlap_gaussian",
    "unstable_overlap_excess",
)
"""Figures of pairs that are not means over latents."""


@metric_class
class DecoderGeometryMetrics(BaseMetrics):
    """Cosines between the decoder rows of one SAE."""

    c_dec = metric(
        "c_dec",
        "Mean |cosine| of different decoder rows (arXiv 2508.16560)",
        display=True,
    )
    mean_cos_sim = metric(
        "MeanCosSim",
        "Mean over decoder rows of the largest signed cosine to another",
    )
    max_abs_cos = metric(
        "Max |Cosine|",
        "Largest |cosine| of different decoder rows; exact, no interval within an SAE",
    )
    median_abs_cos = metric(
        "Median of |Cosine|",
        "Median of |cosine| of different decoder rows, to 1e-4; no interval within an SAE",
    )
    p90_abs_cos = metric(
        "90 % Quantile of |Cosine|",
        "90 % Quantile of |cosine| of different decoder rows, to 1e-4; no interval within an SAE",
    )
    p99_abs_cos = metric(
        "99 % Quantile of |Cosine|",
        "99 % Quantile of |cosine| of different decoder rows, to 1e-4; no interval within an SAE",
    )


@metric_class
class AliveDecoderGeometryMetrics(BaseMetrics):
    """The same between the decoder rows of alive latents."""

    c_dec_alive = metric(
        "c_dec, Alive",
        "Mean |cosine| of different alive decoder rows (arXiv 2508.16560)",
    )
    mean_cos_sim_alive = metric(
        "MeanCosSim, Alive",
        "Mean over alive decoder rows of the largest signed cosine to another",
    )
    max_abs_cos_alive = metric(
        "Max |Cosine|, Alive",
        "Largest |cosine| of different alive decoder rows; exact, no interval within an SAE",
    )
    median_abs_cos_alive = metric(
        "Median of |Cosine|, Alive",
        "Median of |cosine| of different alive decoder rows, to 1e-4; no interval within an SAE",
    )
    p90_abs_cos_alive = metric(
        "90 % Quantile of |Cosine|, Alive",
        "90 % Quantile of |cosine| of different alive decoder rows, to 1e-4; no interval within an SAE",
    )
    p99_abs_cos_alive = metric(
        "99 % Quantile of |Cosine|, Alive",
        "99 % Quantile of |cosine| of different alive decoder rows, to 1e-4; no interval within an SAE",
    )


@metric_class
class EncoderDecoderMetrics(BaseMetrics):
    """Encoder against decoder, alive latents."""

    encoder_decoder_cos = metric(
        "Encoder-Decoder Cosine",
        "Mean cosine of each latent's encoder and decoder vector",
    )
    alive_by_weights = metric(
        "Alive Latents by Weights",
        "Latents whose encoder-decoder cosine exceeds the alive threshold; n is all latents",
    )
    dead_by_weights = metric(
        "Dead Latents by Weights",
        "The other latents",
    )


@metric_class
class LatentGeometryMetrics(EncoderDecoderMetrics):
    """The same, and norms."""

    decoder_norm = metric(
        "Decoder Norm",
        "Mean norm of the decoder rows, in the units of the weights",
    )


@metric_class
class HeldOutMetrics(BaseMetrics):
    """Figures on held-out text; intervals of one SAE are over contexts."""

    explained_variance = metric(
        "Explained Variance",
        "1 - residual / variance about the mean, special tokens left out",
        display=True,
    )
    explained_variance_with_bos = metric(
        "Explained Variance With BOS",
        "The same with special tokens",
    )
    l0 = metric(
        "L0",
        "Mean number of latents that are not zero on a token",
        display=True,
    )
    alive = metric(
        "Alive Latents on Text",
        "Latents that fired at least once; n is the number of tokens",
    )


@metric_class
class SimilarityMetrics(BaseMetrics):
    """Cosine similarity of the latents of two seeds."""

    mean_max_cos = metric(
        "Mean Max Cosine",
        "Mean of the decoder's and the encoder's mean max cosine (arXiv 2603.04198)",
        display=True,
    )
    mean_max_cos_decoder = metric(
        "Mean Max Cosine, Decoder",
        "(mean_i max_j S_ij + mean_j max_i S_ij) / 2, S the |cosine| of decoder rows",
    )
    mean_max_cos_encoder = metric(
        "Mean Max Cosine, Encoder",
        "The same for encoder columns",
    )
    fraction_paired = metric(
        "Fraction Paired",
        "Share of latents whose best decoder |cosine| in the other seed exceeds the shared threshold (one-sided, as published)",
        display=True,
    )
    fraction_paired_symmetrised = metric(
        "Fraction Paired, Symmetrised",
        "Mean of the shares from either side",
    )
    pw_mcc_signed = metric(
        "PW-MCC, Signed",
        "Mean matched cosine of decoder rows, matched by signed cosine (arXiv 2505.20254)",
    )
    pw_mcc_absolute = metric(
        "PW-MCC, Absolute",
        "Mean matched |cosine| of decoder rows, matched by |cosine|",
    )


@metric_class
class SharedMetrics(BaseMetrics):
    """Latents that decoder and encoder match to the same latent."""

    shared = metric(
        "Shared, All Latents",
        "Share of latents whose decoder and encoder have the same Hungarian partner, both at |cosine| above the shared threshold",
        display=True,
    )
    shared_alive = metric(
        "Shared, Alive Latents",
        "The same after leaving out dead latents of each SAE, over the smaller alive count",
        display=True,
    )


@metric_class
class StabilityMetrics(BaseMetrics):
    """In how many other seeds a latent comes back."""

    always_shared = metric(
        "Always Shared",
        "Share of this SAE's latents shared with every other seed",
    )
    sometimes_shared = metric(
        "Sometimes Shared",
        "Share of latents shared with some other seeds, not all",
    )
    never_shared = metric(
        "Never Shared",
        "Share of latents shared with no other seed",
    )
    always_shared_alive = metric(
        "Always Shared, Alive",
        "Share of this SAE's alive latents shared with every other seed",
    )
    sometimes_shared_alive = metric(
        "Sometimes Shared, Alive",
        "Share of alive latents shared with some other seeds, not all",
    )
    never_shared_alive = metric(
        "Never Shared, Alive",
        "Share of alive latents shared with no other seed",
    )


@metric_class
class StableLatentMetrics(BaseMetrics):
    """How many latents are stable."""

    stable_latents = metric(
        "Stable Latents",
        "Share of latents that are stable, of all; intervals: bootstrap over latents",
    )


@metric_class
class ReconstructionMetrics(StableLatentMetrics):
    """What stable latents carry of the reconstruction of held-out text."""

    explained_variance_stable = metric(
        "Explained Variance, Stable Latents Only",
        "Explained variance with every latent that is not stable set to zero",
        display=True,
    )
    explained_variance_unstable = metric(
        "Explained Variance, Unstable Latents Only",
        "Explained variance with every stable latent set to zero",
    )
    variance_share_stable = metric(
        "Share of Reconstructed Variance, Stable",
        "Covariance of the stable latents' sum with the reconstruction over the reconstruction's variance; unstable latents carry 1 minus it",
        display=True,
    )
    contribution_share_stable = metric(
        "Share of Squared Contributions, Stable",
        "Sum of squared norms of activation times decoder vector over stable latents, over that of all; unstable latents carry 1 minus it",
    )
    firing_share_stable = metric(
        "Share of Firings, Stable",
        "Share of non-zero activations that are stable latents': what a random set that fires as often would carry",
    )


@metric_class
class SubspaceMetrics(BaseMetrics):
    """Overlap of the subspaces that two seeds' unstable latents span."""

    unstable_overlap = metric(
        "Overlap of Unstable Subspaces",
        "||U_r' V_r||_F^2 / r of the first r left singular vectors of two seeds' unstable decoder blocks (after arXiv 2606.12138), r the largest power of 2 in d_in / 8; null where a block has a lower rank",
        display=True,
    )
    unstable_overlap_gaussian = metric(
        "Overlap of Gaussian Rows",
        "The same of as many unit rows drawn from N(0, Sigma_x), Sigma_x the covariance of the activations (ours): what two dictionaries on one stream share without a common feature; n draws, the interval is where one more draw lies",
        display=True,
    )
    unstable_overlap_excess = metric(
        "Overlap above Gaussian Rows",
        "Overlap of unstable subspaces minus that of Gaussian rows (ours); of one SAE the interval excludes 0 if one more draw would not reach the overlap",
    )


@metric_class
class SubspaceNullMetrics(SubspaceMetrics):
    """The same, and further subspaces to compare them with."""

    unstable_overlap_pca = metric(
        "Overlap with Principal Directions",
        "The same of the SAE's unstable block and the first r principal directions of the activations (ours)",
    )
    gaussian_overlap_pca = metric(
        "Overlap of Gaussian Rows with Principal Directions",
        "The same of as many rows drawn from N(0, Sigma_x)",
    )
    stable_overlap_matched = metric(
        "Overlap of Stable Latents, Equal Number",
        "The same of random stable latents of two seeds, as many of each as there are unstable and stable ones (ours), at a rank of at most that number; the interval is where one more draw lies",
    )
    unstable_overlap_matched = metric(
        "Overlap of Unstable Latents, Equal Number",
        "The same of as many random unstable latents",
    )


@metric_class
class BasisMetrics(BaseMetrics):
    """Unstable latents by what spans them in another seed; T is the squared shared threshold."""

    basis_single = metric(
        "One Partner",
        "Share of unstable latents whose nearest unstable partner by decoder holds at least T of their squared norm (ours)",
    )
    basis_single_chance = metric(
        "One Partner, Gaussian Rows",
        "The same with as many rows drawn from N(0, Sigma_x) as partners",
    )
    basis_single_chance_moments = metric(
        "One Partner, Rows of Equal Moments",
        "The same with as many rows of N(0, D'D / n) as partners, D the other seed's n unstable rows, of which they are random mixtures with exactly these moments (ours)",
    )
    basis_rotated = metric(
        "Rotated Basis",
        "Share of unstable latents of which the nearest partner holds less than T and the span of the nearest 8 at least T (ours)",
        display=True,
    )
    basis_rotated_chance = metric(
        "Rotated Basis, Gaussian Rows",
        "The same with as many rows drawn from N(0, Sigma_x) as partners",
    )
    basis_rotated_chance_moments = metric(
        "Rotated Basis, Rows of Equal Moments",
        "The same with as many rows of N(0, D'D / n) as partners, D the other seed's n unstable rows, of which they are random mixtures with exactly these moments (ours)",
    )
    basis_apart = metric(
        "Apart",
        "Share of unstable latents of which the span of the nearest 8 holds less than T (ours)",
    )
    basis_apart_chance = metric(
        "Apart, Gaussian Rows",
        "The same with as many rows drawn from N(0, Sigma_x) as partners",
    )
    basis_apart_chance_moments = metric(
        "Apart, Rows of Equal Moments",
        "The same with as many rows of N(0, D'D / n) as partners, D the other seed's n unstable rows, of which they are random mixtures with exactly these moments (ours)",
    )


@metric_class
class SpanMetrics(BasisMetrics):
    """Shares of unstable latents' squared norms in spans of partners of another seed."""

    span_nearest_N = metric(
        "Span of the Nearest {n}",
        "Mean share of ||d_i||^2 of unstable latents in the span of their {n} nearest unstable partners by |cosine| (ours)",
        over=(1, 2, 4, 8),
    )
    span_random_N = metric(
        "Span of {n} Random",
        "The same of {n} unstable partners drawn at random",
        over=(1, 2, 4, 8),
    )
    span_gaussian_N = metric(
        "Span of the Nearest {n} Gaussian Rows",
        "The same of the {n} nearest of as many rows drawn from N(0, Sigma_x): what choosing the nearest of rows that crowd as the activations do gives by chance",
        over=(1, 2, 4, 8),
    )
    span_moments_N = metric(
        "Span of the Nearest {n} of Rows of Equal Moments",
        "The same of the {n} nearest of as many rows of N(0, D'D / n), D the other seed's n unstable rows, of which they are random mixtures with exactly these moments (ours): by chance, of rows that lie where its latents do",
        over=(1, 2, 4, 8),
    )


@metric_class
class FiringMetrics(BaseMetrics):
    """Firing and token forms against stability, latents alive by weights."""

    firing_stability = metric(
        "Firing Rate and Stability",
        "Spearman's rho of firing rate and stability over latents (ours); chance is 0",
    )
    surface_form_stability = metric(
        "Surface Form and Stability",
        "Spearman's rho of the surface-form index minus its chance and stability, over latents that fired (ours)",
    )
    surface_form_stable = metric(
        "Surface Form, Stable",
        "Mean surface-form index of stable latents: share of a latent's activation on its most frequent token id (ours)",
    )
    surface_form_stable_chance = metric(
        "Surface Form, Stable, Shuffled Tokens",
        "The same with the token ids of all rows in random order",
    )
    surface_form_unstable = metric(
        "Surface Form, Unstable",
        "Mean surface-form index of unstable latents that fired",
    )
    surface_form_unstable_chance = metric(
        "Surface Form, Unstable, Shuffled Tokens",
        "The same with the token ids of all rows in random order",
    )


@metric_class
class LossPartMetrics(BaseMetrics):
    """Loss of the language model with parts of the reconstruction; intervals over contexts."""

    ce_original = metric(
        "Cross Entropy, Original", "Of the model as it is, nats a token"
    )
    ce_reconstruction = metric(
        "Cross Entropy, Reconstruction", "With the whole reconstruction at the hook"
    )
    ce_stable = metric("Cross Entropy, Stable Latents Only", "All others set to zero")
    ce_unstable = metric(
        "Cross Entropy, Unstable Latents Only", "Stable latents set to zero"
    )
    ce_matched = metric(
        "Cross Entropy, Random Latents Only",
        "With alive latents drawn at random until they fire as often as the stable ones (ours)",
    )
    ce_bias = metric("Cross Entropy, Bias Only", "With all latents set to zero")
    kl_reconstruction = metric(
        "KL, Reconstruction", "KL(original || replaced), nats a token"
    )
    kl_stable = metric("KL, Stable Latents Only", "The same for stable latents only")
    kl_unstable = metric("KL, Unstable Latents Only", "The same for unstable ones")
    kl_matched = metric("KL, Random Latents Only", "The same for random latents")
    kl_bias = metric("KL, Bias Only", "The same for none")


@metric_class
class LossMetrics(LossPartMetrics):
    """The same, and the loss of each tenth of the latents by stability."""

    loss_tenth_N = metric(
        "Loss per Latent, Tenth {n}",
        "Rise of the cross entropy when the alive latents in tenth {n} by stability (1: least stable) are set to zero, over their number (ours)",
        over=range(1, 11),
    )
    firing_tenth_N = metric(
        "Share of Firings, Tenth {n}",
        "Share of all non-zero activations: the rise of tenth {n} by chance, if loss went with firing",
        over=range(1, 11),
    )


@dataclass
class BlockMetrics(BaseMetrics):
    """Sizes of the blocks of equal number."""

    matched_latents: int | None = value(
        "Latents in Blocks of Equal Number",
        "The fewest stable or unstable alive latents of an SAE of the group; null if not measured",
    )
    matched_rank: int | None = value(
        "Rank of Blocks of Equal Number", "Largest power of 2 up to that and r"
    )


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
