"""SAEBench's core output with one more category: the corrected held-out figures."""

from __future__ import annotations

from functools import partial

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics
from sae_bench.evals.core.eval_output import (
    CoreEvalOutput,
    CoreFeatureMetric,
    CoreMetricCategories,
)

from eval_recipes.results.metrics import metric, metric_class, value

_metric = partial(
    metric,
    nullable=False,
    of="Contexts the interval comes from",
    resampled=", bootstrapped over contexts",
)


@metric_class
class CorrectedMetrics(BaseMetrics):
    """Figures on held-out text; special tokens count only where the name says so."""

    explained_variance = _metric(
        "Explained Variance",
        "1 - squared error / squared distance from the mean activation, over all tokens",
        display=True,
    )
    explained_variance_with_bos = _metric(
        "Explained Variance with BOS",
        "The same with special tokens, whose activations hold over a third of the variance",
    )
    mse: float = value(
        "Mean Squared Error", "Squared error averaged over tokens and dimensions"
    )
    l0 = _metric("L0", "Mean number of latents a token that are not zero", display=True)
    alive: int = value("Alive Latents", "Latents that fired at least once")
    frac_alive: float = value("Fraction Alive", "Alive latents as a share of all")
    n_tokens: int = value("Tokens", "Tokens the figures come from")


@dataclass
class CorrectedCoreMetricCategories(CoreMetricCategories):
    """Upstream's categories, untouched, and the corrected figures beside them."""

    corrected: CorrectedMetrics = value(
        "Corrected",
        "What upstream's explained variance and MSE mean to measure, on more text and with intervals",
    )


NULLABLE = frozenset({"consistent_activation_heuristic", "encoder_decoder_cosine_sim"})
"""Figures of a latent that may have no value."""

KL_FIGURES = ("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae")
"""Figures of the model's behavior that have no value where it gives a probability of 0."""


@dataclass
class FeatureMetric(CoreFeatureMetric):
    """
    Upstream's figures of one latent; null where they have no value.

    Upstream writes -1 there, which a cosine may be, too: a latent that never fired has no
    heuristic, one whose weights are all zero no direction.
    """

    consistent_activation_heuristic: float | None = value(  # pyright: ignore[reportIncompatibleVariableOverride]
        "Consistent Activation Heuristic",
        "Average number of tokens per prompt that activate the feature; null if none does",
    )
    encoder_decoder_cosine_sim: float | None = value(  # pyright: ignore[reportIncompatibleVariableOverride]
        "Encoder-Decoder Cosine Similarity",
        "Cosine of encoder and decoder vector; null if either is zero",
    )


@dataclass(config=ConfigDict(title="Core"))
class CorrectedCoreOutput(CoreEvalOutput):
    """Core evaluation in upstream's format with corrected figures beside its own."""

    eval_result_metrics: CorrectedCoreMetricCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    eval_result_details: list[FeatureMetric] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=list,
        title="Feature-wise Metrics",
        description="Detailed metrics for each feature in the SAE",
    )
