"""Complete or partial result of one SAE, with the checked figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from sae_bench.evals.autointerp.eval_config import AutoInterpEvalConfig
from sae_bench.evals.autointerp.eval_output import (
    AutoInterpEvalOutput,
    AutoInterpMetrics,
)
from sae_lens import SAE

from eval_recipes.chat import JudgeClient
from eval_recipes.results.files import (
    base_fields,
    result_path,
    unstructured,
    write_result,
)
from eval_recipes.results.sidecar import side_path
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.autointerp.chat import JudgedAutoInterp
from eval_recipes.saebench.autointerp.examples import SeededAutoInterp
from eval_recipes.saebench.autointerp.figures import (
    common_figures,
    detail_of,
    judge_figures,
    summary_of,
)
from eval_recipes.saebench.autointerp.options import (
    EVAL,
    AutoInterpOptions,
    is_as_published,
    text_name,
)
from eval_recipes.saebench.autointerp.output import (
    NOT_MEASURED,
    AutoInterpConfig,
    CheckedMetrics,
    JudgedCategories,
    JudgedOutput,
    TokenCategories,
    TokenMetrics,
    TokenOutput,
)

PARTIAL_SUFFIX = "_partial_results.json"


class IncompleteError(RuntimeError):
    """Some latents have no reply yet; the message names the cause and the partial result."""


def output_of(
    context: RunContext,
    options: AutoInterpOptions,
    config: AutoInterpEvalConfig,
    subject: Subject,
    sae: SAE[Any],
    measured: AutoInterpEvalOutput | None,
    ran: SeededAutoInterp,
    client: JudgeClient | None,
) -> JudgedOutput | TokenOutput:
    """
    Return upstream's output with the checked figures.

    Where replies are missing, a figure that no latent has is ``NOT_MEASURED``.

    Args:
        context: the run.
        options: settings of the evaluation.
        config: upstream's settings.
        subject: which SAE.
        sae: the SAE itself.
        measured: upstream's output; None if too few latents have replies.
        ran: the run of upstream.
        client: the judge, if there is one.

    Raises:
        NoScoreError: if all replies are there and no latent has a checked score.
    """
    done = [one for _, one in sorted(ran.scored.items()) if one.unanswered is None]
    n_unanswered = len(ran.scored) - len(done)
    shared: dict[str, Any] = {"seed": context.seed, "partial": n_unanswered > 0}
    figures = common_figures(
        done, n_chosen=ran.n_latents, n_with_data=len(ran.scored), **shared
    )
    common: dict[str, Any] = {
        **base_fields(subject, sae),
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


def partial_path(context: RunContext, subject: Subject) -> Path:
    """Return the path of a result without all replies."""
    path = result_path(context.out, EVAL, subject.release, subject.sae_id)
    return side_path(path, PARTIAL_SUFFIX)


def require_complete(
    context: RunContext,
    subject: Subject,
    output: JudgedOutput | TokenOutput,
    ran: SeededAutoInterp,
) -> None:
    """
    Refuse a result that lacks replies; it is written as a partial result.

    Raises:
        IncompleteError: if latents have no reply.
    """
    missing = [
        one for _, one in sorted(ran.scored.items()) if one.unanswered is not None
    ]
    if missing:
        partial = write_result(partial_path(context, subject), output)
        raise IncompleteError(
            f"{EVAL} of SAE {subject.sae_id!r} failed: {len(missing)} of {ran.n_latents} "
            "latents have no reply. "
            f"{summary_of(missing)}. What there is stands in {partial.name!r}."
        )
