"""The result file of the vocabulary evaluation."""

from __future__ import annotations

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalOutput,
    BaseMetricCategories,
    BaseMetrics,
    BaseResultDetail,
)
from torch import Tensor

from eval_recipes.results.metrics import metric, metric_class
from eval_recipes.statistics.seeds import Interval, bootstrap_mean_interval
from eval_recipes.vocabulary.options import EVAL, VocabularyEvalConfig
from saereg_plugin.metrics import unit_rows
from saereg_plugin.metrics.similarity import (
    TokenAlignment,
    aligned_mask,
    covered_tokens,
    nearest_token,
)

_ALIGNED = "Aligned Fraction"
_ALIVE = "Aligned Fraction, Alive Latents"
_COSINE = "Mean Max Cosine"
_COVERAGE = "Token Coverage"
_ABOVE = "Above Random"


@metric_class
class AlignmentMetrics(BaseMetrics):
    """Figures of one dictionary against one vocabulary."""

    aligned_fraction = metric(
        _ALIGNED,
        "Share of latents with max_j cos(dec_i, e_j) of at least the threshold (arXiv 2606.27941)",
        display=True,
        of="Latents behind the figure",
        nullable=False,
    )
    mean_max_cos = metric(
        _COSINE,
        "Mean over latents of the largest signed cosine to an embedding",
        display=True,
        of="Latents behind the figure",
        nullable=False,
    )
    token_coverage = metric(
        _COVERAGE,
        "Share of the vocabulary's tokens that are the nearest one of an aligned latent; interval over tokens",
        display=True,
        of="Tokens behind the figure",
        nullable=False,
    )


@metric_class
class VocabularyMetrics(AlignmentMetrics):
    """Figures of the SAE."""

    aligned_fraction_alive = metric(
        _ALIVE,
        "The same share among latents that are alive by weights; null if none is",
        of="Alive latents behind the figure",
    )
    above_random = metric(
        _ABOVE,
        "Aligned fraction minus that of the random dictionary; interval over the latents of both",
        display=True,
        of="Latents of each dictionary behind the figure",
        nullable=False,
    )


@dataclass
class VocabularyMetricCategories(BaseMetricCategories):
    """Categories of the metrics."""

    vocabulary: VocabularyMetrics = Field(
        title="Vocabulary Alignment",
        description="Decoder rows against token embeddings; intervals: bootstrap over latents (coverage: over tokens)",
    )
    baseline: AlignmentMetrics = Field(
        title="Random Baseline",
        description="The same figures for a dictionary of this shape in uniformly random directions",
    )


@dataclass(config=ConfigDict(title="Vocabulary Alignment"))
class VocabularyEvalOutput(
    BaseEvalOutput[VocabularyEvalConfig, VocabularyMetricCategories, BaseResultDetail]
):
    """
    How near decoder rows lie to the model's token embeddings (arXiv 2606.27941).
    """

    eval_config: VocabularyEvalConfig
    eval_id: str
    datetime_epoch_millis: int
    eval_result_metrics: VocabularyMetricCategories
    eval_type_id: str = Field(
        default=EVAL,
        title="Eval Type ID",
        description="The type of the evaluation",
    )


def alignment_figures(
    alignment: TokenAlignment, n_tokens: int, config: VocabularyEvalConfig
) -> dict[str, Interval | None]:
    """Return aligned fraction, mean max cosine and token coverage."""
    threshold = config.aligned_threshold
    return {
        "aligned_fraction": mean_of(
            aligned_mask(alignment, threshold=threshold), config
        ),
        "mean_max_cos": mean_of(alignment.cosine, config),
        "token_coverage": mean_of(
            covered_tokens(alignment, n_tokens, threshold=threshold), config
        ),
    }


def mean_of(values: Tensor, config: VocabularyEvalConfig) -> Interval:
    """Return a mean with its bootstrap interval; a share of 0 or 1 with its bound."""
    return bootstrap_mean_interval(
        [values.numpy()],
        caps=[1.0] if values.dtype == torch.bool else None,
        n_resamples=config.n_resamples,
        seed=config.random_seed,
    )


def share_difference(a: Tensor, b: Tensor, config: VocabularyEvalConfig) -> Interval:
    """Return the share of True in ``a`` minus that in ``b``, both resampled on their own."""
    return bootstrap_mean_interval(
        [a.numpy(), b.numpy()],
        weights=[1.0, -1.0],
        caps=[1.0, 1.0],
        n_resamples=config.n_resamples,
        seed=config.random_seed,
    )


def random_alignment(
    shape: tuple[int, int], tokens: Tensor, *, seed: int
) -> TokenAlignment:
    """
    Return the nearest tokens of a dictionary in uniformly random directions.

    Args:
        shape: (d_sae, d_in).
        tokens: embeddings as unit rows, [tokens, d_in].
        seed: seed of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = unit_rows(torch.randn(shape, generator=generator))
    return nearest_token(rows, tokens, unit=True)
