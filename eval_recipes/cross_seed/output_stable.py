"""Metrics of the cross-seed output about what stable and unstable latents do."""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics

from eval_recipes.results.metrics import count, high, low, value


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
