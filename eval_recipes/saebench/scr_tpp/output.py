"""SAEBench's SCR and TPP outputs with metrics of the masked ablation."""

from __future__ import annotations

from functools import partial

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics
from sae_bench.evals.scr_and_tpp.eval_output import (
    ScrEvalOutput,
    ScrMetricCategories,
    TppEvalOutput,
    TppMetricCategories,
)

from eval_recipes.results.metrics import metric, metric_class, value

PUBLISHED_N = (2, 5, 10, 20, 50, 100, 500)
"""Numbers of ablated latents for which upstream's output has fields."""

HEADLINE_N = 10
"""The one that the SAEBench paper plots (arXiv 2503.09532)."""

_LEAK = (
    "metric with padded positions ablated too, as upstream does, minus the masked one"
)
_SHARE = "Share of padded positions in the absolute logit shift of upstream's ablation"
_MASKED = "The same metrics without the ablation of padded positions, with intervals"

_metric = partial(
    metric,
    of="Test texts behind the figure",
    resampled="",
    over=PUBLISHED_N,
    missing=(None, None),
)


@metric_class
class MaskedScrMetrics(BaseMetrics):
    """SCR with the latents ablated on real tokens only; intervals over test texts."""

    scr_metric_threshold_N = _metric(
        "Masked SCR, Top {n}",
        "SCR metric, {n} latents ablated on real tokens only",
        headline=HEADLINE_N,
    )
    scr_dir1_threshold_N = _metric(
        "Masked SCR Dir 1, Top {n}",
        "Latents of the spurious attribute ablated, accuracy on the other",
    )
    scr_dir2_threshold_N = _metric(
        "Masked SCR Dir 2, Top {n}",
        "Latents of the attribute to keep ablated, accuracy on the spurious one",
    )
    scr_metric_threshold_N_padding_leak = _metric(
        "SCR Padding Leak, Top {n}", f"SCR {_LEAK}"
    )
    scr_metric_threshold_N_padding_share = _metric("SCR Padding Share, Top {n}", _SHARE)


@metric_class
class MaskedTppMetrics(BaseMetrics):
    """TPP with the latents ablated on real tokens only, on every negative text; intervals over test texts."""

    tpp_threshold_N_total_metric = _metric(
        "Masked TPP, Top {n}",
        "Fall of the targeted probe's accuracy minus that of the others, {n} latents ablated on real tokens only",
        headline=HEADLINE_N,
    )
    tpp_threshold_N_intended_diff_only = _metric(
        "Masked TPP Intended, Top {n}",
        "Fall of the targeted probe's balanced accuracy",
    )
    tpp_threshold_N_unintended_diff_only = _metric(
        "Masked TPP Unintended, Top {n}",
        "Mean fall of the other probes' balanced accuracy",
    )
    tpp_threshold_N_padding_leak = _metric(
        "TPP Padding Leak, Top {n}", f"TPP {_LEAK}, on the same texts"
    )
    tpp_threshold_N_padding_share = _metric("TPP Padding Share, Top {n}", _SHARE)


@dataclass
class MaskedScrMetricCategories(ScrMetricCategories):
    """Upstream's metrics, untouched, and the masked ones beside them."""

    masked: MaskedScrMetrics = value("Masked", _MASKED)


@dataclass
class MaskedTppMetricCategories(TppMetricCategories):
    """Upstream's metrics, untouched, and the masked ones beside them."""

    masked: MaskedTppMetrics = value("Masked", _MASKED)


@dataclass(config=ConfigDict(title="SCR"))
class MaskedScrOutput(ScrEvalOutput):
    """SCR in upstream's format with the masked ablation beside its own."""

    eval_result_metrics: MaskedScrMetricCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]


@dataclass(config=ConfigDict(title="TPP"))
class MaskedTppOutput(TppEvalOutput):
    """TPP in upstream's format with the masked ablation beside its own."""

    eval_result_metrics: MaskedTppMetricCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
