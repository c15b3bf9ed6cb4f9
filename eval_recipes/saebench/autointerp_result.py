"""The result of one SAE: upstream's output with the checked figures, whole or partial."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from sae_bench.evals.autointerp.eval_output import (
    AutoInterpEvalOutput,
    AutoInterpMetricCategories,
    AutoInterpMetrics,
)
from sae_lens import SAE

from eval_recipes.context import RunContext, Subject
from eval_recipes.judge import JudgeClient
from eval_recipes.results import (
    SUFFIX,
    base_fields,
    result_path,
    unstructured,
    write_result,
)
from eval_recipes.saebench.autointerp_examples import SeededAutoInterp
from eval_recipes.saebench.autointerp_figures import (
    common_figures,
    detail_of,
    judge_figures,
)
from eval_recipes.saebench.autointerp_judge import JudgedAutoInterp
from eval_recipes.saebench.autointerp_options import EVAL, AutoInterpOptions
from eval_recipes.saebench.autointerp_output import (
    NOT_MEASURED,
    AutoInterpConfig,
    CheckedMetrics,
    JudgedCategories,
    JudgedOutput,
    TokenCategories,
    TokenMetrics,
    TokenOutput,
)
from eval_recipes.saebench.autointerp_scored import Scored, summary_of

PARTIAL_SUFFIX = "_partial_results.json"


class IncompleteError(RuntimeError):
    """Some latents have no reply yet; the message says why and where the others' are."""


def output_of(
    context: RunContext,
    options: AutoInterpOptions,
    subject: Subject,
    sae: SAE[Any],
    measured: AutoInterpEvalOutput,
    ran: SeededAutoInterp,
    client: JudgeClient | None,
) -> JudgedOutput | TokenOutput:
    """Return upstream's output with the checked figures."""
    done = [one for one in _in_order(ran) if one.unanswered is None]
    n_chosen = ran.n_latents
    figures = common_figures(done, n_chosen=n_chosen, seed=context.seed)
    config = AutoInterpConfig(
        **dataclasses.asdict(measured.eval_config),  # pyright: ignore[reportArgumentType]
        explainer=options.explainer,
        judge_model=None if client is None else client.config.model,
        judge_base_url=None if client is None else client.config.url,
        judge_temperature=options.judge_temperature,
        chosen_latents=None if options.latents is None else list(options.latents),
    )
    common: dict[str, Any] = {
        **base_fields(subject, sae),
        "eval_config": config,
        "eval_result_details": [detail_of(one) for one in done],
    }
    if not isinstance(ran, JudgedAutoInterp) or client is None:
        nothing = AutoInterpMetrics(
            autointerp_score=NOT_MEASURED, autointerp_std_dev=NOT_MEASURED
        )
        return TokenOutput(
            **common,
            eval_result_metrics=TokenCategories(
                autointerp=nothing, token_explainer=TokenMetrics(**figures)
            ),
            eval_result_unstructured=unstructured(
                subject,
                data=context.data,
                comparable_with_llm_scores=False,
            ),
        )
    judged = judge_figures(done, list(ran.replies.values()), seed=context.seed)
    upstream_metrics: AutoInterpMetricCategories = measured.eval_result_metrics
    return JudgedOutput(
        **common,
        eval_result_metrics=JudgedCategories(
            autointerp=upstream_metrics.autointerp,
            checked=CheckedMetrics(**figures, **judged),
        ),
        eval_result_unstructured=unstructured(
            subject,
            **_logs(measured, keep=options.save_logs),
            data=context.data,
            comparable_with_llm_scores=True,
            # What this run sent differs between runs; what the result took does not.
            judge_this_run={
                "calls": client.budget.calls,
                "tokens": client.budget.tokens,
                "retries": client.retries,
                "cache_hits": client.cache_hits,
            },
        ),
    )


def _logs(measured: AutoInterpEvalOutput, *, keep: bool) -> dict[str, Any]:
    """Return upstream's entry of each latent, by default without the text it saw."""
    entries: dict[str, Any] = measured.eval_result_unstructured or {}
    return {
        latent: {name: v for name, v in entry.items() if keep or name != "logs"}
        for latent, entry in entries.items()
    }


def _in_order(ran: SeededAutoInterp) -> list[Scored]:
    return [ran.scored[latent] for latent in sorted(ran.scored)]


def write_output(
    context: RunContext,
    subject: Subject,
    output: JudgedOutput | TokenOutput,
    ran: SeededAutoInterp,
) -> Path:
    path = result_path(context.out, EVAL, subject.release, subject.sae_id)
    partial = path.with_name(path.name.removesuffix(SUFFIX) + PARTIAL_SUFFIX)
    missing = [one for one in _in_order(ran) if one.unanswered is not None]
    if missing:
        write_result(partial, output)
        raise IncompleteError(
            f"{len(missing)} of {ran.n_latents} latents have no reply. "
            f"{summary_of(missing)}. What there is stands in {partial.name!r}."
        )
    written = write_result(path, output)
    partial.unlink(missing_ok=True)
    return written
