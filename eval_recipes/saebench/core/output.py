"""SAEBench's core output with one more category: the corrected held-out figures."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import DEFAULT_DISPLAY, BaseMetrics
from sae_bench.evals.core.eval_output import (
    CoreEvalOutput,
    CoreFeatureMetric,
    CoreMetricCategories,
)


def _bound(side: str, title: str) -> Any:
    return Field(
        title=f"{title} ({side})",
        description=f"{side.capitalize()} end of the 95 % interval, bootstrapped over contexts",
    )


def _n_contexts(title: str) -> Any:
    return Field(title=f"{title} (n)", description="Contexts the interval comes from")


@dataclass(kw_only=True)
class CorrectedMetrics(BaseMetrics):
    """Figures on held-out text; special tokens count only where the name says so."""

    explained_variance: float = Field(
        title="Explained Variance",
        description="1 - squared error / squared distance from the mean activation, over all tokens",
        json_schema_extra=DEFAULT_DISPLAY,
    )
    explained_variance_ci_low: Annotated[float, _bound("low", "Explained Variance")]
    explained_variance_ci_high: Annotated[float, _bound("high", "Explained Variance")]
    explained_variance_n: Annotated[int, _n_contexts("Explained Variance")]
    explained_variance_with_bos: float = Field(
        title="Explained Variance with BOS",
        description="The same with special tokens, whose activations hold over a third of the variance",
    )
    explained_variance_with_bos_ci_low: Annotated[
        float, _bound("low", "Explained Variance with BOS")
    ]
    explained_variance_with_bos_ci_high: Annotated[
        float, _bound("high", "Explained Variance with BOS")
    ]
    explained_variance_with_bos_n: Annotated[
        int, _n_contexts("Explained Variance with BOS")
    ]
    mse: float = Field(
        title="Mean Squared Error",
        description="Squared error averaged over tokens and dimensions",
    )
    l0: float = Field(
        title="L0",
        description="Mean number of latents a token that are not zero",
        json_schema_extra=DEFAULT_DISPLAY,
    )
    l0_ci_low: Annotated[float, _bound("low", "L0")]
    l0_ci_high: Annotated[float, _bound("high", "L0")]
    l0_n: Annotated[int, _n_contexts("L0")]
    alive: int = Field(
        title="Alive Latents", description="Latents that fired at least once"
    )
    frac_alive: float = Field(
        title="Fraction Alive", description="Alive latents as a share of all"
    )
    n_tokens: int = Field(title="Tokens", description="Tokens the figures come from")


@dataclass
class CorrectedCoreMetricCategories(CoreMetricCategories):
    """Upstream's categories, untouched, and the corrected figures beside them."""

    corrected: CorrectedMetrics = Field(
        title="Corrected",
        description="What upstream's explained variance and MSE mean to measure, on more text and with intervals",
    )


NULLABLE = frozenset({"consistent_activation_heuristic", "encoder_decoder_cosine_sim"})
"""Figures of a latent that may have no value."""


@dataclass
class FeatureMetric(CoreFeatureMetric):
    """
    Upstream's figures of one latent; null where they have no value.

    Upstream writes -1 there, which a cosine may be, too: a latent that never fired has no
    heuristic, one whose weights are all zero no direction.
    """

    consistent_activation_heuristic: float | None = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        title="Consistent Activation Heuristic",
        description="Average number of tokens per prompt that activate the feature; null if none does",
    )
    encoder_decoder_cosine_sim: float | None = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        title="Encoder-Decoder Cosine Similarity",
        description="Cosine of encoder and decoder vector; null if either is zero",
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
