"""SAEBench's autointerp output with checked negatives, floors and intervals."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.autointerp.eval_config import AutoInterpEvalConfig
from sae_bench.evals.autointerp.eval_output import (
    AutoInterpEvalOutput,
    AutoInterpMetricCategories,
    AutoInterpMetrics,
)
from sae_bench.evals.base_eval_output import BaseMetrics, BaseResultDetail

from eval_recipes.results.files import (
    base_fields,
    result_path,
    unstructured,
    write_result,
)
from eval_recipes.results.metrics import metric, metric_class, value
from eval_recipes.results.sidecar import side_path
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.autointerp.chat import Job, JudgedAutoInterp
from eval_recipes.saebench.autointerp.examples import SeededAutoInterp
from eval_recipes.saebench.autointerp.figures import (
    NOT_MEASURED,
    Scored,
    TokenCounts,
    common_figures,
    judge_figures,
    n2g_figures,
    share_of_right,
    summary_of,
)
from eval_recipes.saebench.autointerp.n2g_explainer import N2GAutoInterp
from eval_recipes.saebench.autointerp.options import (
    EVAL,
    Explainer,
    is_as_published,
    text_name,
)

_metric = partial(
    metric,
    nullable=False,
    of="Latents the figure comes from",
    resampled=", bootstrapped over latents",
)


@dataclass
class AutoInterpConfig(AutoInterpEvalConfig):
    """Upstream's configuration, and what it does not say: who explained, which latents."""

    explainer: Explainer = value(
        "Explainer",
        "A language model; or the token explainer or N2G, whose scores are not comparable",
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
class N2GMetrics(TokenMetrics):
    """The same from N2G, with precision and recall on single tokens."""

    precision = _metric(
        "Precision",
        "Share of the tokens that a latent's trie predicts on which the latent fires, over the "
        "contexts that hold none of the explained windows; mean over latents with a prediction",
        display=True,
    )
    recall = _metric(
        "Recall",
        "Share of the tokens on which the latent fires that its trie predicts, over the same "
        "contexts; mean over latents that fire there",
        display=True,
    )
    firing_rate = _metric(
        "Firing Rate",
        "Share of these tokens on which the latent fires: the precision of a random prediction",
    )
    predicted_rate = _metric(
        "Predicted Rate",
        "Share of these tokens that its trie predicts: the recall of a random prediction",
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
class N2GCategories(AutoInterpMetricCategories):
    """Upstream's category without a value, and ours."""

    n2g: N2GMetrics = value(
        "N2G (not comparable with LLM scores)",
        "Detection, precision and recall by minimal token sequences, without a language model's words",
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
    precision: float | None = value(
        "Precision",
        "N2G: share of the predicted tokens on which the latent fires",
        default=None,
    )
    recall: float | None = value(
        "Recall",
        "N2G: share of the tokens on which the latent fires that were predicted",
        default=None,
    )
    n_predicted: int | None = value(
        "Predicted Tokens", "N2G: tokens behind the precision", default=None
    )
    n_fired: int | None = value(
        "Fired Tokens", "N2G: tokens behind the recall", default=None
    )
    n_tokens: int | None = value(
        "Tokens", "N2G: tokens of the contexts without explained windows", default=None
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


@dataclass(config=ConfigDict(title="AutoInterp (N2G)"))
class N2GOutput(AutoInterpEvalOutput):
    """Autointerp by N2G; upstream's metrics are -1, which is no score."""

    eval_config: AutoInterpConfig  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    eval_result_metrics: N2GCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    eval_result_details: list[LatentDetail] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=list,
        title="Latents",
        description="One entry a latent with data",
    )


AnyOutput = JudgedOutput | TokenOutput | N2GOutput

PARTIAL_SUFFIX = "_partial_results.json"


class IncompleteError(RuntimeError):
    """Some latents have no reply yet; the message names the cause and the partial result."""


def output_of(
    job: Job,
    config: AutoInterpEvalConfig,
    measured: AutoInterpEvalOutput | None,
    ran: SeededAutoInterp,
) -> AnyOutput:
    """
    Return upstream's output with the checked figures.

    Where replies are missing, a figure that no latent has is ``NOT_MEASURED``.

    ``measured`` is None if too few latents have replies.

    Raises:
        NoScoreError: if all replies are there and no latent has a checked score.
    """
    context, options, subject, client = (
        job.context,
        job.options,
        job.subject,
        job.client,
    )
    done = [one for _, one in sorted(ran.scored.items()) if one.unanswered is None]
    n_unanswered = len(ran.scored) - len(done)
    shared: dict[str, Any] = {"seed": context.seed, "partial": n_unanswered > 0}
    figures = common_figures(
        done, n_chosen=ran.n_latents, n_with_data=len(ran.scored), **shared
    )
    common: dict[str, Any] = {
        **base_fields(subject, job.sae),
        "eval_config": AutoInterpConfig(
            **dataclasses.asdict(config),  # pyright: ignore[reportArgumentType]
            explainer=options.explainer,
            judge_model=None if client is None else client.config.model,
            judge_base_url=None if client is None else client.config.url,
            judge_temperature=None if client is None else options.judge_temperature,
            chosen_latents=None if options.latents is None else list(options.latents),
        ),
        "eval_result_details": [detail_of(one) for one in done],
    }
    marks = {
        "data": "hub" if options.dataset == "hub" else context.corpus,
        "text": text_name(context, options),
        "comparable_with_llm_scores": client is not None,
        "comparable_with_published": is_as_published(options),
    }
    nothing = AutoInterpMetrics(
        autointerp_score=NOT_MEASURED, autointerp_std_dev=NOT_MEASURED
    )
    if isinstance(ran, N2GAutoInterp):
        measures = {**figures, **n2g_figures(done, seed=context.seed)}
        return N2GOutput(
            **common,
            eval_result_metrics=N2GCategories(
                autointerp=nothing, n2g=N2GMetrics(**measures)
            ),
            eval_result_unstructured=unstructured(subject, **marks),
        )
    if not isinstance(ran, JudgedAutoInterp) or client is None:
        return TokenOutput(
            **common,
            eval_result_metrics=TokenCategories(
                autointerp=nothing, token_explainer=TokenMetrics(**figures)
            ),
            eval_result_unstructured=unstructured(subject, **marks),
        )
    judged = judge_figures(
        done, list(ran.replies.values()), n_unanswered=n_unanswered, **shared
    )
    return JudgedOutput(
        **common,
        eval_result_metrics=JudgedCategories(
            autointerp=measured.eval_result_metrics.autointerp if measured else nothing,
            checked=CheckedMetrics(**figures, **judged),
        ),
        eval_result_unstructured=unstructured(
            subject,
            **_logs(measured, keep=options.save_logs),
            **marks,
            # requests of this run, which differ between runs
            judge_this_run={
                "calls": client.budget.calls,
                "tokens": client.budget.tokens,
                "retries": client.retries,
                "cache_hits": client.cache_hits,
            },
        ),
    )


def _logs(measured: AutoInterpEvalOutput | None, *, keep: bool) -> dict[str, Any]:
    """Return upstream's entry of each latent, by default without the text it saw."""
    found = None if measured is None else measured.eval_result_unstructured
    entries: dict[str, Any] = found or {}
    return {
        latent: {name: v for name, v in entry.items() if keep or name != "logs"}
        for latent, entry in entries.items()
    }


def detail_of(scored: Scored) -> LatentDetail:
    """Return one latent's entry of the result file."""
    return LatentDetail(
        latent=scored.latent,
        explanation=scored.explanation,
        score=scored.upstream_score,
        checked_score=share_of_right(scored),
        checked_predictions=scored.predictions,
        checked_active=scored.active,
        unparseable=scored.unparseable,
        refused=scored.refused,
        **_counted(scored.counts),
    )


def _counted(counts: TokenCounts | None) -> dict[str, Any]:
    if counts is None:
        return {}
    return {
        "precision": counts.precision,
        "recall": counts.recall,
        "n_predicted": counts.n_predicted,
        "n_fired": counts.n_fired,
        "n_tokens": counts.n_tokens,
    }


def partial_path(context: RunContext, subject: Subject) -> Path:
    """Return the path of a result without all replies."""
    path = result_path(context.out, EVAL, subject.release, subject.sae_id)
    return side_path(path, PARTIAL_SUFFIX)


def require_complete(job: Job, output: AnyOutput, ran: SeededAutoInterp) -> None:
    """
    Refuse a result that lacks replies; it is written as a partial result.

    Raises:
        IncompleteError: if latents have no reply.
    """
    missing = [
        one for _, one in sorted(ran.scored.items()) if one.unanswered is not None
    ]
    if missing:
        partial = write_result(partial_path(job.context, job.subject), output)
        raise IncompleteError(
            f"{EVAL} of SAE {job.subject.sae_id!r} failed: {len(missing)} of {ran.n_latents} "
            "latents have no reply. "
            f"{summary_of(missing)}. What there is stands in {partial.name!r}."
        )
