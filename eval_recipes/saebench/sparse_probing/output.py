"""SAEBench's sparse-probing output with corrected accuracies and intervals."""

from __future__ import annotations

from functools import partial

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics
from sae_bench.evals.sparse_probing.eval_output import (
    SparseProbingEvalOutput,
    SparseProbingMetricCategories,
    SparseProbingResultDetail,
)

from eval_recipes.results.metrics import metric, metric_class, value

K_VALUES = (1, 2, 5, 10, 20, 50, 100)
"""The k for which upstream's output has a place."""

_AVERAGED = (
    "test accuracy on one draw of texts for all SAEs, mean over classes, then sets"
)
_RANDOM = "latents of a random dictionary as wide as the SAE and as sparse"
_CHANNELS = "channels of the model's activation"

_metric = partial(
    metric,
    of="Test texts the figure comes from",
    resampled=", bootstrapped over test texts",
    missing=(None, 0),
)
_by_k = partial(_metric, over=K_VALUES)


@metric_class
class CorrectedProbingMetrics(BaseMetrics):
    # As in the JSON schemas released so far.
    """CorrectedProbingMetrics()"""

    sae_all_accuracy = _metric(
        "SAE Accuracy, All",
        f"Probe on all SAE latents, its epoch chosen without the test texts: {_AVERAGED}",
    )
    llm_all_accuracy = _metric(
        "LLM Accuracy, All",
        f"Probe on all {_CHANNELS}, its epoch chosen without the test texts: {_AVERAGED}",
    )
    sae_top_N_accuracy = _by_k(
        "SAE Accuracy, Top {n}",
        f"Probe on the top {{n}} SAE latents: {_AVERAGED}",
        headline=1,
    )
    llm_top_N_accuracy = _by_k(
        "LLM Accuracy, Top {n}", f"Probe on the top {{n}} {_CHANNELS}: {_AVERAGED}"
    )
    random_top_N_accuracy = _by_k(
        "Random Dictionary Accuracy, Top {n}",
        f"Probe on the top {{n}} {_RANDOM}: {_AVERAGED}",
    )
    sae_above_llm_top_N = _by_k(
        "SAE above LLM, Top {n}",
        f"Accuracy on the top {{n}} SAE latents less that on the top {{n}} {_CHANNELS}, paired by text",
    )
    sae_above_random_top_N = _by_k(
        "SAE above Random Dictionary, Top {n}",
        f"Accuracy on the top {{n}} SAE latents less that on the top {{n}} {_RANDOM}, paired by text",
    )


@dataclass
class CorrectedProbingCategories(SparseProbingMetricCategories):
    """Upstream's categories, untouched, and the corrected figures beside them."""

    corrected: CorrectedProbingMetrics = value(
        "Corrected",
        "Accuracies on the same texts for every SAE, with baselines and intervals",
    )


@dataclass
class ClassAccuracy:
    """One probe of one class; the interval is Wilson's over its test texts."""

    class_name: str = value("Class", "Class told from the others")
    reader: str = value("Reader", "What the probe reads")
    accuracy: float = value("Accuracy", "Test accuracy")
    ci_low: float = value("Accuracy (low)", "Low end, 95 %")
    ci_high: float = value("Accuracy (high)", "High end, 95 %")
    n: int = value("n", "Test texts of the probe")


@dataclass(kw_only=True)
class CorrectedProbingDetail(SparseProbingResultDetail):
    """Upstream's figures of one data set, and the corrected ones by class."""

    n_left_out: int = value(
        "Test Texts Left Out",
        "Test texts not used in corrected figures: a train text reads the same",
    )
    random_l0: int | None = value(
        "L0 of the Random Dictionary",
        "Latents a token of the random dictionary: the SAE's mean, rounded",
    )
    classes: list[ClassAccuracy] = value("Classes", "Corrected accuracy of every probe")


@dataclass(config=ConfigDict(title="Sparse Probing"))
class CorrectedProbingOutput(SparseProbingEvalOutput):
    """Sparse probing in upstream's format with corrected figures beside its own."""

    eval_result_metrics: CorrectedProbingCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    eval_result_details: list[CorrectedProbingDetail] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=list,
        title="Per-Dataset Sparse Probing Results",
        description="Each object is a stat on the sparse probing results for a dataset.",
    )
