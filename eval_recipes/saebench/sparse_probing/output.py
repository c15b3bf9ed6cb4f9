"""SAEBench's sparse-probing output with corrected accuracies and intervals beside its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import DEFAULT_DISPLAY, BaseMetrics
from sae_bench.evals.sparse_probing.eval_output import (
    SparseProbingEvalOutput,
    SparseProbingMetricCategories,
    SparseProbingResultDetail,
)

K_VALUES = (1, 2, 5, 10, 20, 50, 100)
"""The k for which upstream's output has a place."""

_READERS = {
    "sae": ("SAE", "SAE latents"),
    "llm": ("LLM", "channels of the model's activation"),
    "random": (
        "Random Dictionary",
        "latents of a random dictionary as wide as the SAE and as sparse",
    ),
}
_AVERAGED = (
    "test accuracy on one draw of texts for all SAEs, mean over classes, then sets"
)


def _figures() -> dict[str, tuple[str, str]]:
    """Title and description of every corrected figure, by name."""
    figures = {
        f"{reader}_all_accuracy": (
            f"{title} Accuracy, All",
            f"Probe on all {what}, its epoch chosen without the test texts: {_AVERAGED}",
        )
        for reader, (title, what) in _READERS.items()
        if reader != "random"
    }
    for k in K_VALUES:
        for reader, (title, what) in _READERS.items():
            figures[f"{reader}_top_{k}_accuracy"] = (
                f"{title} Accuracy, Top {k}",
                f"Probe on the top {k} {what}: {_AVERAGED}",
            )
        for reader in ("llm", "random"):
            title, what = _READERS[reader]
            figures[f"sae_above_{reader}_top_{k}"] = (
                f"SAE above {title}, Top {k}",
                f"Accuracy on the top {k} SAE latents less that on the top {k} {what}, "
                "paired by text",
            )
    return figures


def _fields() -> list[tuple[str, Any, Any]]:
    """The four fields of each figure; null where its k was not asked for."""
    fields: list[tuple[str, Any, Any]] = []
    for name, (title, description) in _figures().items():
        extra = DEFAULT_DISPLAY if name in ("sae_top_1_accuracy",) else None
        shown = {
            "": (float | None, title, description),
            "_ci_low": (
                float | None,
                f"{title} (low)",
                "Low end of the 95 % interval, bootstrapped over test texts",
            ),
            "_ci_high": (
                float | None,
                f"{title} (high)",
                "High end of the 95 % interval, bootstrapped over test texts",
            ),
            "_n": (int, f"{title} (n)", "Test texts the figure comes from"),
        }
        for suffix, (kind, field_title, text) in shown.items():
            field = Field(
                default=0 if suffix == "_n" else None,
                title=field_title,
                description=text,
                json_schema_extra=None if suffix else extra,
            )
            fields.append((name + suffix, kind, field))
    return fields


# Thirty-seven figures of four fields each, which differ in nothing but names.
CorrectedProbingMetrics: Any = dataclass(
    dataclasses.make_dataclass(
        "CorrectedProbingMetrics", _fields(), bases=(BaseMetrics,), kw_only=True
    )
)


@dataclass
class CorrectedProbingCategories(SparseProbingMetricCategories):
    """Upstream's categories, untouched, and the corrected figures beside them."""

    corrected: CorrectedProbingMetrics = Field(  # pyright: ignore[reportInvalidTypeForm]
        title="Corrected",
        description="Accuracies on the same texts for every SAE, with baselines and intervals",
    )


@dataclass
class ClassAccuracy:
    """One probe of one class; the interval is Wilson's over its test texts."""

    class_name: str = Field(title="Class", description="Class told from the others")
    reader: str = Field(title="Reader", description="What the probe reads")
    accuracy: float = Field(title="Accuracy", description="Test accuracy")
    ci_low: float = Field(title="Accuracy (low)", description="Low end, 95 %")
    ci_high: float = Field(title="Accuracy (high)", description="High end, 95 %")
    n: int = Field(title="n", description="Test texts of the probe")


@dataclass(kw_only=True)
class CorrectedProbingDetail(SparseProbingResultDetail):
    """Upstream's figures of one data set, and the corrected ones by class."""

    n_left_out: int = Field(
        title="Test Texts Left Out",
        description="Test texts not used in corrected figures: a train text reads the same",
    )
    random_l0: int | None = Field(
        title="L0 of the Random Dictionary",
        description="Latents a token of the random dictionary: the SAE's mean, rounded",
    )
    classes: list[ClassAccuracy] = Field(
        title="Classes", description="Corrected accuracy of every probe"
    )


@dataclass(config=ConfigDict(title="Sparse Probing"))
class CorrectedProbingOutput(SparseProbingEvalOutput):
    """Sparse probing in upstream's format with corrected figures beside its own."""

    eval_result_metrics: CorrectedProbingCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    eval_result_details: list[CorrectedProbingDetail] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=list,
        title="Per-Dataset Sparse Probing Results",
        description="Each object is a stat on the sparse probing results for a dataset.",
    )
