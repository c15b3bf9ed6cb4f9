"""SAEBench's sae-probes output with two more categories: deduplicated scores, and overlap."""

from __future__ import annotations

from functools import partial

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics
from sae_bench.evals.sparse_probing_sae_probes.eval_output import (
    SaeProbesMetricCategories,
    SaeProbesResultDetail,
    SparseProbingSaeProbesEvalOutput,
)

from eval_recipes.results.metrics import metric, metric_class, value

KS = (1, 2, 5, 10, 20, 50, 100)
"""The numbers of latents for which upstream's output has fields."""

_LLM = (
    "Mean over the sets for a probe on the model's own activations, no text in two rows"
)
_SAE = (
    "Mean over the sets for a probe on the SAE's {n} best latents, no text in two rows"
)

_metric = partial(
    metric,
    display=True,
    of="Test texts of all sets together",
    resampled=", bootstrapped over the test texts of each set",
    missing=(None, None),
)
_by_k = partial(_metric, over=KS)


@metric_class
class DeduplicatedMetrics(BaseMetrics):
    """Upstream's probes on splits by text; null where not asked for."""

    llm_test_accuracy = _metric("LLM Test Accuracy", _LLM)
    llm_test_auc = _metric("LLM Test AUC", _LLM)
    sae_top_N_test_accuracy = _by_k("SAE Top {n} Test Accuracy", _SAE)
    sae_top_N_test_auc = _by_k("SAE Top {n} Test AUC", _SAE)


@dataclass(kw_only=True)
class OverlapMetrics(BaseMetrics):
    """How much of upstream's test rows its probes were trained on."""

    test_rows_in_train: float = value(
        "Test Rows in Train",
        "Share of upstream's test rows, all sets together, whose text also stands in a training row",
        display=True,
    )
    test_rows_in_train_n: int = value(
        "Test Rows in Train (n)",
        "Upstream's test rows; the split is counted whole, so there is no interval",
    )
    mean_test_rows_in_train: float = value(
        "Mean Test Rows in Train", "The same share, averaged over the sets"
    )
    mean_test_rows_in_train_n: int = value("Mean Test Rows in Train (n)", "Sets")


@dataclass
class CorrectedSaeProbesCategories(SaeProbesMetricCategories):
    """Upstream's categories, untouched, and ours beside them."""

    deduplicated: DeduplicatedMetrics = value(
        "Deduplicated",
        "Upstream's probes where no test text was trained on, with intervals",
    )
    overlap: OverlapMetrics = value(
        "Overlap", "How far upstream's test rows stand in its training rows"
    )


@dataclass
class SaeProbesDetail(SaeProbesResultDetail):
    """Upstream's figures of one set, and ours."""

    test_rows_in_train: float | None = value(
        "Test Rows in Train",
        "Share of upstream's test rows whose text also stands in a training row",
        default=None,
    )
    n_test_rows: int | None = value("Test Rows", "Upstream's test rows", default=None)
    n_distinct_texts: int | None = value(
        "Distinct Texts",
        "Texts left after deduplication; those with both labels are left out",
        default=None,
    )
    n_train_texts: int | None = value(
        "Training Texts", "After deduplication", default=None
    )
    n_test_texts: int | None = value("Test Texts", "After deduplication", default=None)
    deduplicated_llm: dict[str, float] | None = value(
        "Deduplicated LLM Scores",
        "Accuracy and AUC of a probe on the model's own activations",
        default=None,
    )
    deduplicated_by_k: dict[int, dict[str, float]] | None = value(
        "Deduplicated SAE Scores by K",
        "Accuracy and AUC of probes on the k best latents",
        default=None,
    )


@dataclass(config=ConfigDict(title="Sparse Probing (sae-probes)"))
class CorrectedSaeProbesOutput(SparseProbingSaeProbesEvalOutput):
    """Sparse probing on sae-probes in upstream's format, deduplicated scores beside its own."""

    eval_result_metrics: CorrectedSaeProbesCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    eval_result_details: list[SaeProbesDetail] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=list,
        title="Per-Dataset Sparse Probing Results",
        description="Scores of the probes on each set",
    )
