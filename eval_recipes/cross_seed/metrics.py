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
