"""SAEBench's SCR output with one more category: the masked ablation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics
from sae_bench.evals.scr_and_tpp.eval_output import ScrEvalOutput, ScrMetricCategories

from eval_recipes.saebench.scr_tpp.output import metrics_class

_DOC = "SCR with the latents ablated on real tokens only; intervals over test texts."

if TYPE_CHECKING:

    class MaskedScrMetrics(BaseMetrics):
        """The fields are made below, for every number of latents."""
else:
    MaskedScrMetrics = metrics_class(
        "MaskedScrMetrics",
        _DOC,
        {
            "scr_metric_threshold_{n}": (
                "Masked SCR, Top {n}",
                "SCR metric, {n} latents ablated on real tokens only",
            ),
            "scr_dir1_threshold_{n}": (
                "Masked SCR Dir 1, Top {n}",
                "Latents of the spurious attribute ablated, accuracy on the other",
            ),
            "scr_dir2_threshold_{n}": (
                "Masked SCR Dir 2, Top {n}",
                "Latents of the attribute to keep ablated, accuracy on the spurious one",
            ),
            "scr_metric_threshold_{n}_padding_leak": (
                "SCR Padding Leak, Top {n}",
                "SCR metric with padded positions ablated too, as upstream does, minus the masked one",
            ),
            "scr_metric_threshold_{n}_padding_share": (
                "SCR Padding Share, Top {n}",
                "Share of padded positions in the absolute logit shift of upstream's ablation",
            ),
        },
        headline="scr_metric_threshold_{n}",
    )


@dataclass
class MaskedScrMetricCategories(ScrMetricCategories):
    """Upstream's metrics, untouched, and the masked ones beside them."""

    masked: MaskedScrMetrics = Field(
        title="Masked",
        description="The same metrics without the ablation of padded positions, with intervals",
    )


@dataclass(config=ConfigDict(title="SCR"))
class MaskedScrOutput(ScrEvalOutput):
    """SCR in upstream's format with the masked ablation beside its own."""

    eval_result_metrics: MaskedScrMetricCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
