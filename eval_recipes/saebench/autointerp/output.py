"""SAEBench's autointerp output with checked negatives, floors and intervals beside its score."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.autointerp.eval_config import AutoInterpEvalConfig
from sae_bench.evals.autointerp.eval_output import (
    AutoInterpEvalOutput,
    AutoInterpMetricCategories,
)
from sae_bench.evals.base_eval_output import (
    DEFAULT_DISPLAY,
    BaseMetrics,
    BaseResultDetail,
)

NOT_MEASURED = -1.0
"""Upstream's score where no language model judged: its format has no place for "none"."""


def _bound(side: str, title: str) -> Any:
    return Field(
        title=f"{title} ({side})",
        description=f"{side.capitalize()} end of the 95 % interval, bootstrapped over latents",
    )


def _n_latents(title: str) -> Any:
    return Field(title=f"{title} (n)", description="Latents the figure comes from")


@dataclass
class AutoInterpConfig(AutoInterpEvalConfig):
    """Upstream's configuration, and what it does not say: who explained, which latents."""

    explainer: Literal["judge", "tokens"] = Field(
        default="judge",
        title="Explainer",
        description="A language model, or the token explainer, whose scores are not comparable",
    )
    judge_model: str | None = Field(
        default=None, title="Judge Model", description="Name the server knows it by"
    )
    judge_base_url: str | None = Field(
        default=None,
        title="Judge Base URL",
        description="Address of the judge's server",
    )
    judge_temperature: float | None = Field(
        default=None,
        title="Judge Temperature",
        description="Null: the server's default",
    )
    chosen_latents: list[int] | None = Field(
        default=None,
        title="Chosen Latents",
        description="The latents, if they were given; upstream's own field for them does not "
        "read back",
    )


@dataclass(kw_only=True)
class TokenMetrics(BaseMetrics):
    """Figures on examples of which it is known whether the latent is active."""

    score: float = Field(
        title="Detection Score, Checked Negatives",
        description="Share of examples predicted rightly, where every negative example is one in "
        "which the latent really is inactive (nowhere above 1 % of its largest activation, "
        "upstream's threshold); mean over latents",
        json_schema_extra=DEFAULT_DISPLAY,
    )
    score_ci_low: Annotated[float, _bound("low", "Detection Score, Checked Negatives")]
    score_ci_high: Annotated[
        float, _bound("high", "Detection Score, Checked Negatives")
    ]
    score_n: Annotated[int, _n_latents("Detection Score, Checked Negatives")]
    floor: float = Field(
        title="Floor",
        description="The same score for the constant answer None",
        json_schema_extra=DEFAULT_DISPLAY,
    )
    balanced_accuracy: float = Field(
        title="Balanced Accuracy",
        description="Mean of the shares predicted rightly among active and among inactive "
        "examples; any constant answer gives .5",
    )
    balanced_accuracy_ci_low: Annotated[float, _bound("low", "Balanced Accuracy")]
    balanced_accuracy_ci_high: Annotated[float, _bound("high", "Balanced Accuracy")]
    balanced_accuracy_n: Annotated[int, _n_latents("Balanced Accuracy")]
    active_negatives: float = Field(
        title="Active Negatives",
        description="Share of upstream's negative examples in which the latent is active, by "
        "upstream's own threshold of 1 % of its largest activation",
    )
    active_negatives_ci_low: Annotated[float, _bound("low", "Active Negatives")]
    active_negatives_ci_high: Annotated[float, _bound("high", "Active Negatives")]
    active_negatives_n: Annotated[int, _n_latents("Active Negatives")]
    n_latents: int = Field(title="Latents", description="Latents that were chosen")
    n_latents_without_data: int = Field(
        title="Latents without Data",
        description="Chosen latents that fire too rarely for examples",
    )
    n_latents_without_negatives: int = Field(
        title="Latents without Negatives",
        description="Chosen latents that fire almost everywhere, so that no checked score exists",
    )


@dataclass(kw_only=True)
class CheckedMetrics(TokenMetrics):
    """The same from a judge, with what became of its replies."""

    unparseable_rate: float = Field(
        title="Unparseable Rate",
        description="Share of the latents whose explanation was empty or whose predictions were "
        "not of the form asked for, to the checked or to upstream's own prompt; upstream takes "
        "an empty reply for None and drops the others",
    )
    unparseable_rate_ci_low: Annotated[float, _bound("low", "Unparseable Rate")]
    unparseable_rate_ci_high: Annotated[float, _bound("high", "Unparseable Rate")]
    unparseable_rate_n: Annotated[int, _n_latents("Unparseable Rate")]
    n_latents_upstream: int = Field(
        title="Latents in Upstream's Score",
        description="Latents behind autointerp_score, which carries no n of its own",
    )
    n_latents_refused: int = Field(
        title="Latents Refused",
        description="Latents whose request the server refused, such as by moderation",
    )
    n_latents_unanswered: int = Field(
        title="Latents Unanswered",
        description="Latents without a reply: none but in a partial result",
    )
    judge_calls: int = Field(
        title="Judge Calls",
        description="Different requests behind this result, whether sent in this run or before",
    )
    judge_tokens: int = Field(
        title="Judge Tokens", description="Tokens of these requests and their replies"
    )


@dataclass
class JudgedCategories(AutoInterpMetricCategories):
    """Upstream's category, untouched, and ours."""

    checked: CheckedMetrics = Field(
        title="Checked",
        description="Detection with checked negatives, by the same judge",
    )


@dataclass
class TokenCategories(AutoInterpMetricCategories):
    """Upstream's category without a value, and ours."""

    token_explainer: TokenMetrics = Field(
        title="Token Explainer (not comparable with LLM scores)",
        description="Detection by overlap with the latent's top tokens, without a language model",
    )


@dataclass
class LatentDetail(BaseResultDetail):
    """One latent; null where there is no such figure."""

    latent: int = Field(title="Latent", description="Index of the latent in the SAE")
    explanation: str | None = Field(
        title="Explanation", description="What the latent is said to fire on"
    )
    score: float | None = Field(
        title="Score",
        description="Upstream's score of the latent; null without a judge",
    )
    checked_score: float | None = Field(
        title="Checked Score",
        description="Share predicted rightly with checked negatives",
    )
    checked_predictions: list[int] | None = Field(
        title="Predictions", description="Numbers, from 1, of the examples chosen"
    )
    checked_active: list[bool] | None = Field(
        title="Active",
        description="Whether the latent is active in each example: above 1 % of its largest "
        "activation, as upstream has it",
    )
    unparseable: bool = Field(
        title="Unparseable",
        description="Whether a reply was not of the form asked for, be it to upstream's prompt",
    )
    refused: str | None = Field(
        title="Refused", description="Why the server refused the request"
    )


@dataclass(config=ConfigDict(title="AutoInterp"))
class JudgedOutput(AutoInterpEvalOutput):
    """Autointerp by a language model."""

    eval_config: AutoInterpConfig  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    eval_result_metrics: JudgedCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    eval_result_details: list[LatentDetail] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=list,
        title="Latents",
        description="One entry a latent with data",
    )


@dataclass(config=ConfigDict(title="AutoInterp (tokens)"))
class TokenOutput(AutoInterpEvalOutput):
    """Autointerp by the token explainer; upstream's metrics are -1, which is no score."""

    eval_config: AutoInterpConfig  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    eval_result_metrics: TokenCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    eval_result_details: list[LatentDetail] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=list,
        title="Latents",
        description="One entry a latent with data",
    )
