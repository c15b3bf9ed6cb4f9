"""Recipe ``autointerp``: SAEBench's automated interpretability with any judge, or with none."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from eval_recipes.chat import JudgeClient, check_judge
from eval_recipes.results.files import check_unique_paths
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.activation_source import check_hook, source_of
from eval_recipes.running.context import RunContext
from eval_recipes.running.each_subject import each_subject
from eval_recipes.saebench.autointerp.chat import JudgedAutoInterp
from eval_recipes.saebench.autointerp.data import (
    HUB_DATASET,
    activations_of,
    latents_at_once,
    load_residuals,
    load_text,
)
from eval_recipes.saebench.autointerp.examples import SeededAutoInterp
from eval_recipes.saebench.autointerp.figures import (
    TooFewRepliesError,
    read_explanations,
)
from eval_recipes.saebench.autointerp.options import (
    EVAL,
    AutoInterpOptions,
    autointerp_options,
    check,
    determinants,
    judge_config,
)
from eval_recipes.saebench.autointerp.result import (
    PARTIAL_SUFFIX,
    IncompleteError,
    output_of,
    partial_path,
    write_output,
)
from eval_recipes.saebench.autointerp.token_explainer import (
    TokenAutoInterp,
    background_of,
)
from eval_recipes.saebench.autointerp.upstream_run import run_upstream, upstream_config
from eval_recipes.saebench.upstream import UpstreamError
from saereg_plugin.errors import InputError

__all__ = [
    "EVAL",
    "SIDE_FILES",
    "AutoInterpOptions",
    "IncompleteError",
    "check",
    "check_server",
    "determinants",
    "evaluate",
    "read_explanations",
    "run",
]

SIDE_FILES = (PARTIAL_SUFFIX,)
"""Endings of what is written next to each result."""


def check_server(context: RunContext) -> None:
    """
    Prove that the judge answers and knows key and model, if one is asked.

    Raises:
        InputError: if it does not.
    """
    options = autointerp_options(context)
    if options.explainer == "judge":
        check_judge(judge_config(context, options))


def run(context: RunContext) -> list[Failure]:
    """
    Evaluate every subject and write its result file; return those that failed.

    All SAEs share one budget. An SAE with latents that have no reply yet fails, and what
    is there is written beside the place of its result, ending in ``_partial_results.json``.
    If the judge cannot be reached, or refuses key or model, all of them fail at once.

    Raises:
        InputError: for options, or a missing key.
    """
    options = autointerp_options(context)
    check_unique_paths(context.subjects)
    if options.explainer == "tokens":
        return each_subject(
            EVAL,
            context,
            lambda subject: _evaluate_anew(context, subject, options, None),
        )
    client = JudgeClient(judge_config(context, options), context.artifacts)
    try:
        client.check()
    except InputError as error:
        client.close()
        cause = f"{type(error).__name__}: {error}"
        return [Failure(EVAL, subject.sae_id, cause) for subject in context.subjects]
    try:
        return each_subject(
            EVAL,
            context,
            lambda subject: _evaluate_anew(context, subject, options, client),
        )
    finally:
        client.close()


def _evaluate_anew(
    context: RunContext,
    subject: Subject,
    options: AutoInterpOptions,
    client: JudgeClient | None,
) -> Path:
    """Evaluate one SAE; remove the partial result of an earlier run that this one outdates."""
    partial = partial_path(context, subject)
    try:
        path = evaluate(context, subject, options, client)
    except IncompleteError:
        # it was written anew
        raise
    except Exception:
        partial.unlink(missing_ok=True)
        raise
    partial.unlink(missing_ok=True)
    return path


def evaluate(
    context: RunContext,
    subject: Subject,
    options: AutoInterpOptions,
    client: JudgeClient | None,
) -> Path:
    """
    Evaluate one SAE and return the path of its result; without a client, by tokens.

    Raises:
        IncompleteError: if latents have no reply yet.
        UpstreamError: if upstream failed or left no result.
    """
    sae = subject.load(context.device)
    source = source_of(sae, context_size=options.llm_context_size)
    model = context.models.get(
        source.model_name,
        dtype=context.dtype,
        device=context.device,
        model_kwargs=source.model_kwargs,
    )
    check_hook(model, source.hook_name)
    text = load_text(
        context,
        source,
        model,
        dataset="heldout" if options.dataset == "heldout" else HUB_DATASET,
        total_tokens=options.total_tokens,
        context_size=options.llm_context_size,
    )
    residuals = load_residuals(
        text,
        model,
        source.hook_name,
        batch_size=context.batch_size_prompts,
        dtype=context.dtype,
    )
    activations = activations_of(
        text, residuals, model, batch_size=context.batch_size_prompts
    )
    shared: dict[str, Any] = {
        "activations": activations,
        "latents": options.latents,
        "at_once": latents_at_once(text, context.memory_gib),
    }
    built: list[SeededAutoInterp] = []
    signal = client.signal() if client is not None else threading.Event()

    def build(**arguments: Any) -> SeededAutoInterp:
        if client is None:
            background = background_of(text.tokens, model.tokenizer)
            made = TokenAutoInterp(**arguments, **shared, background=background)
        else:
            made = JudgedAutoInterp(**arguments, **shared, client=client, signal=signal)
        built.append(made)
        return made

    def frequencies(
        _tokens: Any, _model: Any, scored: SAE[Any], *_: Any, **__: Any
    ) -> Any:
        if options.latents is not None:
            # Nothing is drawn, so nobody looks.
            return torch.zeros(int(scored.cfg.d_sae))
        return activations.frequencies(scored)

    config = upstream_config(context, options, source.model_name, text.tokens.numel())
    try:
        measured = run_upstream(
            context,
            config,
            subject,
            sae,
            model,
            text.tokens,
            build=build,
            frequencies=frequencies,
            client=client,
            signal=signal,
        )
    except UpstreamError as error:
        if not isinstance(error.__cause__, TooFewRepliesError):
            raise
        measured = None
    output = output_of(
        context, options, config, subject, sae, measured, built[-1], client
    )
    return write_output(context, subject, output, built[-1])
