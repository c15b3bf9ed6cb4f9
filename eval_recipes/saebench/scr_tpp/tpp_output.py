"""SAEBench's TPP output with one more category: the masked ablation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics
from sae_bench.evals.scr_and_tpp.eval_output import TppEvalOutput, TppMetricCategories

from eval_recipes.saebench.scr_tpp.output import metrics_class

_DOC = "TPP with the latents ablated on real tokens only, on every negative text; intervals over test texts."

if TYPE_CHECKING:

    class MaskedTppMetrics(BaseMetrics):
        """The fields are made below, for every number of latents."""
else:
    MaskedTppMetrics = metrics_class(
        "MaskedTppMetrics",
        _DOC,
        {
            "tpp_threshold_{n}_total_metric": (
                "Masked TPP, Top {n}",
                "Fall of the targeted probe's accuracy minus that of the others, {n} latents ablated on real tokens only",
            ),
            "tpp_threshold_{n}_intended_diff_only": (
                "Masked TPP Intended, Top {n}",
                "Fall of the targeted probe's balanced accuracy",
            ),
            "tpp_threshold_{n}_unintended_diff_only": (
                "Masked TPP Unintended, Top {n}",
                "Mean fall of the other probes' balanced accuracy",
            ),
            "tpp_threshold_{n}_padding_leak": (
                "TPP Padding Leak, Top {n}",
                "TPP metric with padded positions ablated too, as upstream does, minus the masked one, on the same texts",
            ),
            "tpp_threshold_{n}_padding_share": (
                "TPP Padding Share, Top {n}",
                "Share of padded positions in the absolute logit shift of upstream's ablation",
            ),
        },
        headline="tpp_threshold_{n}_total_metric",
    )


@dataclass
class MaskedTppMetricCategories(TppMetricCategories):
    """Upstream's metrics, untouched, and the masked ones beside them."""

    masked: MaskedTppMetrics = Field(
        title="Masked",
        description="The same metrics without the ablation of padded positions, with intervals",
    )


@dataclass(config=ConfigDict(title="TPP"))
class MaskedTppOutput(TppEvalOutput):
    """TPP in upstream's format with the masked ablation beside its own."""

    eval_result_metrics: MaskedTppMetricCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
