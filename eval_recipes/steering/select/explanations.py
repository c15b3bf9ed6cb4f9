"""Explanations of chosen latents: read from a result, or made by autointerp."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sae_lens import SAE

from eval_recipes.chat import JudgeClient
from eval_recipes.results.files import write_result
from eval_recipes.results.reading import SUFFIX
from eval_recipes.results.subject import Subject
from eval_recipes.running.artifacts import ArtifactFolder, artifact_folder, weights_hash
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.autointerp.main import explain_and_score
from eval_recipes.saebench.autointerp.options import AutoInterpOptions
from eval_recipes.steering.generate.language_model import Models
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select.candidates import given_explanations
from eval_recipes.steering.select.explanation_file import Found, read_found
from saereg_plugin.sources import corpora

_FEWEST = 16
"""Fewest latents explained together: an SAE's figures need two with a score."""


def explain(
    context: RunContext,
    subject: Subject,
    sae: SAE[Any],
    latents: Sequence[int],
    pool: Sequence[int],
    config: SteeringEvalConfig,
    client: JudgeClient | None,
    models: Models,
) -> Found:
    """
    Return the explanations that exist, by latent: read from a result, or made.

    New explanations are kept among the artefacts; a chat model is never asked twice. Where
    there are few latents, some of ``pool`` are explained along with them. ``models`` makes room
    for the explainer's model.

    Raises:
        InputError: if the given folder or file has no explanations of this SAE.
        IncompleteError: if the chat model left latents without a reply.
        NoScoreError: if fewer than two latents fire often enough.
    """
    if config.explanations is not None:
        return given_explanations(Path(config.explanations), subject)
    others = [latent for latent in pool if latent not in set(latents)]
    chosen = sorted([*latents, *others[: max(0, _FEWEST - len(latents))]])
    options = _options(chosen, config)
    if config.explainer != "judge":
        # the client may be there as a judge
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

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory() as out:
            own = dataclasses.replace(
                context,
                subjects=[subject],
                # results of the run's own folder are not mixed with these
                out=Path(out),
                options={},
                models=models.for_explaining(sae),
            )
            write_result(path, explain_and_score(own, subject, options, client))

    found = kept_explanations(folder, make)
    return dataclasses.replace(
        found,
        explanations={
            latent: found.explanations[latent]
            for latent in latents
            if latent in found.explanations
        },
    )


def kept_explanations(folder: ArtifactFolder, make: Callable[[Path], None]) -> Found:
    """Return the explanations among the artefacts; if damaged, ``make`` writes them anew."""
    return read_found(folder.ensure(f"explanations{SUFFIX}", make))


def _options(latents: Sequence[int], config: SteeringEvalConfig) -> AutoInterpOptions:
    return AutoInterpOptions(
        latents=tuple(latents),
        total_tokens=config.explainer_tokens,
        explainer=config.explainer,
        judge_model=config.judge_model,
        judge_base_url=config.judge_base_url,
        judge_temperature=config.judge_temperature,
    )
