"""Metrics of one judge: success and its controls, and what success goes with."""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics

from eval_recipes.results.metrics import count, high, low, value

_SUCCESS = "Success"
_FLUENT = "Fluent Success"
_UNSTEERED = "Unsteered Control"
_RANDOM = "Random-direction Control"
_OVER_UNSTEERED = "Success over Unsteered"
_OVER_RANDOM = "Success over Random"
_SPEARMAN = "Spearman, Interp Score"
_BISERIAL = "Point-biserial, Interp Score"
_SLOPE = "Slope, Interp Score"
_STABILITY = "Slope, Stability"
_ADJUSTED = "Slope, Stability, Adjusted"
_DISTINCT = "Different pairs of texts among them"
_WITHOUT = "Pairs without: refused, not of the form asked for, or nothing to judge by"


@dataclass(kw_only=True)
class SuccessMetrics(BaseMetrics):
    """Success at the headline's strength; intervals: bootstrap over latents, n latents."""

    success: float | None = value(
        _SUCCESS,
        "Share of steered texts that the judge finds nearer to the explanation than the unsteered ones; null if this judge was not asked",
        display=True,
    )
    success_ci_low: float | None = low(_SUCCESS)
    success_ci_high: float | None = high(_SUCCESS)
    success_n: int = count(_SUCCESS)
    success_fluent: float | None = value(
        _FLUENT,
        "Share that succeeds at no more than the largest perplexity ratio",
        display=True,
    )
    success_fluent_ci_low: float | None = low(_FLUENT)
    success_fluent_ci_high: float | None = high(_FLUENT)
    success_fluent_n: int = count(_FLUENT)
    unsteered: float | None = value(
        _UNSTEERED,
        "The same share for unsteered texts with independent random numbers in the steered ones' place",
        display=True,
    )
    unsteered_ci_low: float | None = low(_UNSTEERED)
    unsteered_ci_high: float | None = high(_UNSTEERED)
    unsteered_n: int = count(_UNSTEERED)
    random: float | None = value(
        _RANDOM,
        "The same share for a random direction of the same norm, judged by the latent's explanation",
        display=True,
    )
    random_ci_low: float | None = low(_RANDOM)
    random_ci_high: float | None = high(_RANDOM)
    random_n: int = count(_RANDOM)
    over_unsteered: float | None = value(
        _OVER_UNSTEERED,
        "Success less the unsteered control, paired by latent, prompt and repeat",
    )
    over_unsteered_ci_low: float | None = low(_OVER_UNSTEERED)
    over_unsteered_ci_high: float | None = high(_OVER_UNSTEERED)
    over_unsteered_n: int = count(_OVER_UNSTEERED)
    over_random: float | None = value(
        _OVER_RANDOM,
        "Success less the random-direction control, paired by latent, prompt and repeat",
    )
    over_random_ci_low: float | None = low(_OVER_RANDOM)
    over_random_ci_high: float | None = high(_OVER_RANDOM)
    over_random_n: int = count(_OVER_RANDOM)
    pairs: int = value("Pairs", "Steered texts with a verdict")
    pairs_distinct: int = value("Distinct Pairs", _DISTINCT)
    pairs_without_verdict: int = value("Pairs without Verdict", _WITHOUT)
    unsteered_pairs: int = value(
        f"{_UNSTEERED}, Pairs", "Pairs of unsteered texts with a verdict"
    )
    unsteered_pairs_distinct: int = value(f"{_UNSTEERED}, Distinct Pairs", _DISTINCT)
    unsteered_pairs_without_verdict: int = value(
        f"{_UNSTEERED}, Pairs without Verdict", _WITHOUT
    )
    random_pairs: int = value(
        f"{_RANDOM}, Pairs", "Texts of random directions with a verdict"
    )
    random_pairs_distinct: int = value(f"{_RANDOM}, Distinct Pairs", _DISTINCT)
    random_pairs_without_verdict: int = value(
        f"{_RANDOM}, Pairs without Verdict", _WITHOUT
    )
    threshold: float | None = value(
        "Threshold",
        "Score above which this judge sees a success; null for a chat model, or if not asked",
    )


@dataclass(kw_only=True)
class LinkMetrics(BaseMetrics):
    """What success goes with; null where there is none, the reason in the unstructured part."""

    spearman: float | None = value(
        _SPEARMAN, "Of interp score and success rate, over latents"
    )
    spearman_ci_low: float | None = low(_SPEARMAN)
    spearman_ci_high: float | None = high(_SPEARMAN)
    spearman_n: int = count(_SPEARMAN)
    point_biserial: float | None = value(
        _BISERIAL, "Of interp score and success, over texts; interval over latents"
    )
    point_biserial_ci_low: float | None = low(_BISERIAL)
    point_biserial_ci_high: float | None = high(_BISERIAL)
    point_biserial_n: int = count(_BISERIAL)
    slope: float | None = value(
        _SLOPE,
        "Log odds of success for one unit of interp score; interval from errors robust within latents",
    )
    slope_ci_low: float | None = low(_SLOPE)
    slope_ci_high: float | None = high(_SLOPE)
    slope_n: int = count(_SLOPE)
    slope_se: float | None = value(
        f"{_SLOPE} (Standard Error)", "As if all texts were independent, as published"
    )
    slope_se_clustered: float | None = value(
        f"{_SLOPE} (Clustered Standard Error)", "Robust within latents"
    )
    stability_slope: float | None = value(
        _STABILITY,
        "Log odds of success for stability 1 against 0; interval from errors robust within latents",
    )
    stability_slope_ci_low: float | None = low(_STABILITY)
    stability_slope_ci_high: float | None = high(_STABILITY)
    stability_slope_n: int = count(_STABILITY)
    stability_slope_adjusted: float | None = value(
        _ADJUSTED, "The same in a fit on stability and interp score"
    )
    stability_slope_adjusted_ci_low: float | None = low(_ADJUSTED)
    stability_slope_adjusted_ci_high: float | None = high(_ADJUSTED)
    stability_slope_adjusted_n: int = count(_ADJUSTED)


@dataclass(kw_only=True)
class JudgeMetrics(LinkMetrics, SuccessMetrics):
    """Everything in the eyes of one judge."""
