"""Explanations of chosen latents: read from a result, or made by the recipe autointerp."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_lens import SAE

from eval_recipes.artifacts import artifact_folder, weights_hash
from eval_recipes.context import RunContext, Subject
from eval_recipes.judge import JudgeClient
from eval_recipes.result_files import SUFFIX
from eval_recipes.results import result_path
from eval_recipes.saebench.autointerp import evaluate, read_explanations
from eval_recipes.saebench.autointerp_figures import Explanation
from eval_recipes.saebench.autointerp_options import AutoInterpOptions
from eval_recipes.steering.candidates import explanations_of
from eval_recipes.steering.config import SteeringEvalConfig
from saereg_plugin import corpora

_FEWEST = 16
"""Latents that are explained together at least: an SAE's figures need two with a score."""


def explain(
    context: RunContext,
    subject: Subject,
    sae: SAE[Any],
    latents: Sequence[int],
    pool: Sequence[int],
    config: SteeringEvalConfig,
    client: JudgeClient | None,
) -> dict[int, Explanation]:
    """
    Return the explanations that there are, by latent.

    Made ones are kept among the artefacts; what a chat model said is never asked again.

    Args:
        context: the run.
        subject: which SAE.
        sae: the SAE itself.
        latents: what is to be explained.
        pool: others that may be explained along, where there are few.
        config: where explanations come from.
        client: the chat model, if it explains.

    Raises:
        InputError: if the given folder holds no result of this SAE.
        IncompleteError: if the chat model left latents without a reply.
        NoScoreError: if fewer than two latents fire often enough.
    """
    if config.explanations is not None:
        return explanations_of(Path(config.explanations), subject)
    others = [latent for latent in pool if latent not in set(latents)]
    chosen = sorted([*latents, *others[: max(0, _FEWEST - len(latents))]])
    options = _options(chosen, config)
    if config.explainer == "tokens":
        # it may be there as a judge
        client = None
    folder = artifact_folder(
        context.artifacts,
        "steering_explanations",
        {
            "sae": weights_hash(sae),
            "model": context.models.identity(str(sae.cfg.metadata.model_name)),
            "corpus": corpora.identity(context.corpus),
            "latents": chosen,
            "tokens": options.total_tokens,
            "explainer": options.explainer,
            "judge": None
            if client is None
            else [client.config.model, client.config.url],
            "temperature": options.judge_temperature,
            "dtype": context.dtype,
            "batch_size_prompts": context.batch_size_prompts,
            "seed": context.seed,
        },
    )
    # results of the run's own folder are not mixed with these
    own = dataclasses.replace(context, subjects=[subject], out=folder, options={})
    path = result_path(folder, "autointerp", subject.release, subject.sae_id)
    if not path.is_file():
        path = evaluate(own, subject, options, client)
    assert path.name.endswith(SUFFIX)
    found = read_explanations(path)
    return {latent: found[latent] for latent in latents if latent in found}


def _options(latents: Sequence[int], config: SteeringEvalConfig) -> AutoInterpOptions:
    return AutoInterpOptions(
        latents=tuple(latents),
        total_tokens=config.explainer_tokens,
        explainer=config.explainer,
        judge_model=config.judge_model,
        judge_base_url=config.judge_base_url,
        judge_temperature=config.judge_temperature,
    )
