"""SAEBench's autointerp output with checked negatives, floors and intervals."""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.autointerp.eval_config import AutoInterpEvalConfig
from sae_bench.evals.autointerp.eval_output import (
    AutoInterpEvalOutput,
    AutoInterpMetricCategories,
)
from sae_bench.evals.base_eval_output import BaseMetrics, BaseResultDetail

from eval_recipes.results.metrics import metric, metric_class, value

NOT_MEASURED = -1.0
"""Upstream's score where no language model judged: its format has no place for "none"."""


_metric = partial(
    metric,
    nullable=False,
    of="Latents the figure comes from",
    resampled=", bootstrapped over latents",
)


@dataclass
class AutoInterpConfig(AutoInterpEvalConfig):
    """Upstream's configuration, and what it does not say: who explained, which latents."""

    explainer: Literal["judge", "tokens"] = value(
        "Explainer",
        "A language model, or the token explainer, whose scores are not comparable",
        default="judge",
    )
    judge_model: str | None = value(
        "Judge Model", "Name the server knows it by", default=None
    )
    judge_base_url: str | None = value(
        "Judge Base URL", "Address of the judge's server", default=None
    )
    judge_temperature: float | None = value(
        "Judge Temperature", "Null: the server's default", default=None
    )
    chosen_latents: list[int] | None = value(
        "Chosen Latents",
        "The latents, if they were given; upstream's own field for them does not "
        "read back",
        default=None,
    )


@metric_class
class TokenMetrics(BaseMetrics):
    """Figures on examples of which it is known whether the latent is active."""

    score = _metric(
        "Detection Score, Checked Negatives",
        "Share of examples predicted rightly, where every negative example is one in "
        "which the latent really is inactive (nowhere above 1 % of its largest activation, "
        "upstream's threshold); mean over latents",
        display=True,
    )
    floor: float = value(
        "Floor", "The same score for the constant answer None", display=True
    )
    balanced_accuracy = _metric(
        "Balanced Accuracy",
        "Mean of the shares predicted rightly among active and among inactive "
        "examples; any constant answer gives .5",
    )
    active_negatives = _metric(
        "Active Negatives",
        "Share of upstream's negative examples in which the latent is active, by "
        "upstream's own threshold of 1 % of its largest activation",
    )
    n_latents: int = value("Latents", "Latents that were chosen")
    n_latents_without_data: int = value(
        "Latents without Data", "Chosen latents that fire too rarely for examples"
    )
    n_latents_without_negatives: int = value(
        "Latents without Negatives",
        "Chosen latents that fire almost everywhere, so that no checked score exists",
    )


@metric_class
class CheckedMetrics(TokenMetrics):
    """The same from a judge, with what became of its replies."""

    unparseable_rate = _metric(
        "Unparseable Rate",
        "Share of the latents whose explanation was empty or whose predictions were "
        "not of the form asked for, to the checked or to upstream's own prompt; upstream takes "
        "an empty reply for None and drops the others",
    )
    n_latents_upstream: int = value(
        "Latents in Upstream's Score",
        "Latents behind autointerp_score, which carries no n of its own",
    )
    n_latents_refused: int = value(
        "Latents Refused",
        "Latents whose request the server refused, such as by moderation",
    )
    n_latents_unanswered: int = value(
        "Latents Unanswered", "Latents without a reply: none but in a partial result"
    )
    judge_calls: int = value(
        "Judge Calls",
        "Different requests behind this result, whether sent in this run or before",
    )
    judge_tokens: int = value(
        "Judge Tokens", "Tokens of these requests and their replies"
    )


@dataclass
class JudgedCategories(AutoInterpMetricCategories):
    """Upstream's category, untouched, and ours."""

    checked: CheckedMetrics = value(
        "Checked", "Detection with checked negatives, by the same judge"
    )


@dataclass
class TokenCategories(AutoInterpMetricCategories):
    """Upstream's category without a value, and ours."""

    token_explainer: TokenMetrics = value(
        "Token Explainer (not comparable with LLM scores)",
        "Detection by overlap with the latent's top tokens, without a language model",
    )


@dataclass
class LatentDetail(BaseResultDetail):
    """One latent; null where there is no such figure."""

    latent: int = value("Latent", "Index of the latent in the SAE")
    explanation: str | None = value("Explanation", "What the latent is said to fire on")
    score: float | None = value(
        "Score", "Upstream's score of the latent; null without a judge"
    )
    checked_score: float | None = value(
        "Checked Score", "Share predicted rightly with checked negatives"
    )
    checked_predictions: list[int] | None = value(
        "Predictions", "Numbers, from 1, of the examples chosen"
    )
    checked_active: list[bool] | None = value(
        "Active",
        "Whether the latent is active in each example: above 1 % of its largest "
        "activation, as upstream has it",
    )
    unparseable: bool = value(
        "Unparseable",
        "Whether a reply was not of the form asked for, be it to upstream's prompt",
    )
    refused: str | None = value("Refused", "Why the server refused the request")


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
