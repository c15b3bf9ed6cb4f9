"""SAEBench's sae-probes output with two more categories: deduplicated scores, and overlap."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import DEFAULT_DISPLAY, BaseMetrics
from sae_bench.evals.sparse_probing_sae_probes.eval_output import (
    SaeProbesMetricCategories,
    SaeProbesResultDetail,
    SparseProbingSaeProbesEvalOutput,
)

KS = (1, 2, 5, 10, 20, 50, 100)
"""The numbers of latents for which upstream's output has fields."""

_SCORES = {"test_accuracy": "Test Accuracy", "test_auc": "Test AUC"}


def _optional(kind: type, title: str, description: str, **extra: Any) -> Any:
    return (
        kind | None,
        Field(default=None, title=title, description=description, **extra),
    )


def _deduplicated_fields() -> list[tuple[str, Any, Any]]:
    """Return name, type and field of each score and of its companions."""
    probes = {"llm": ("LLM", "the model's own activations")} | {
        f"sae_top_{k}": (f"SAE Top {k}", f"the SAE's {k} best latents") for k in KS
    }
    fields: list[tuple[str, Any, Any]] = []
    for probe, (title, source) in probes.items():
        for score, score_title in _SCORES.items():
            name, full = f"{probe}_{score}", f"{title} {score_title}"
            fields += [
                (
                    name,
                    *_optional(
                        float,
                        full,
                        f"Mean over the sets for a probe on {source}, no text in two rows",
                        json_schema_extra=DEFAULT_DISPLAY,
                    ),
                ),
                *(
                    (
                        f"{name}_ci_{side}",
                        *_optional(
                            float,
                            f"{full} ({side})",
                            f"{side.capitalize()} end of the 95 % interval, bootstrapped over "
                            "the test texts of each set",
                        ),
                    )
                    for side in ("low", "high")
                ),
                (
                    f"{name}_n",
                    *_optional(int, f"{full} (n)", "Test texts of all sets together"),
                ),
            ]
    return fields


if TYPE_CHECKING:

    class DeduplicatedMetrics(BaseMetrics):
        """As made below; a type checker cannot see those fields."""

        def __init__(self, **values: float | int | None) -> None: ...

else:
    DeduplicatedMetrics = dataclass(
        dataclasses.make_dataclass(
            "DeduplicatedMetrics",
            _deduplicated_fields(),
            bases=(BaseMetrics,),
            kw_only=True,
            namespace={
                "__doc__": "Upstream's probes on splits by text; null where not asked for.",
                "__module__": __name__,
            },
        )
    )


@dataclass(kw_only=True)
class OverlapMetrics(BaseMetrics):
    """How much of upstream's test rows its probes were trained on."""

    test_rows_in_train: float = Field(
        title="Test Rows in Train",
        description="Share of upstream's test rows, all sets together, whose text also stands in a training row",
        json_schema_extra=DEFAULT_DISPLAY,
    )
    test_rows_in_train_n: int = Field(
        title="Test Rows in Train (n)",
        description="Upstream's test rows; the split is counted whole, so there is no interval",
    )
    mean_test_rows_in_train: float = Field(
        title="Mean Test Rows in Train",
        description="The same share, averaged over the sets",
    )
    mean_test_rows_in_train_n: int = Field(
        title="Mean Test Rows in Train (n)", description="Sets"
    )


@dataclass
class CorrectedSaeProbesCategories(SaeProbesMetricCategories):
    """Upstream's categories, untouched, and ours beside them."""

    deduplicated: DeduplicatedMetrics = Field(
        title="Deduplicated",
        description="Upstream's probes where no test text was trained on, with intervals",
    )
    overlap: OverlapMetrics = Field(
        title="Overlap",
        description="How far upstream's test rows stand in its training rows",
    )


@dataclass
class SaeProbesDetail(SaeProbesResultDetail):
    """Upstream's figures of one set, and ours."""

    test_rows_in_train: float | None = Field(
        default=None,
        title="Test Rows in Train",
        description="Share of upstream's test rows whose text also stands in a training row",
    )
    n_test_rows: int | None = Field(
        default=None, title="Test Rows", description="Upstream's test rows"
    )
    n_distinct_texts: int | None = Field(
        default=None,
        title="Distinct Texts",
        description="Texts left after deduplication; those with both labels are left out",
    )
    n_train_texts: int | None = Field(
        default=None, title="Training Texts", description="After deduplication"
    )
    n_test_texts: int | None = Field(
        default=None, title="Test Texts", description="After deduplication"
    )
    deduplicated_llm: dict[str, float] | None = Field(
        default=None,
        title="Deduplicated LLM Scores",
        description="Accuracy and AUC of a probe on the model's own activations",
    )
    deduplicated_by_k: dict[int, dict[str, float]] | None = Field(
        default=None,
        title="Deduplicated SAE Scores by K",
        description="Accuracy and AUC of probes on the k best latents",
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
