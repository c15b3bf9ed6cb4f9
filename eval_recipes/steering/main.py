"""Runs the steering evaluation: latents, explanations, texts, verdicts, result, SAE by SAE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_lens import SAE

from eval_recipes.chat import JudgeClient, check_judge
from eval_recipes.results.files import base_fields, result_path
from eval_recipes.results.sidecar import StoredTable, write_with_table
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.each_subject import each_subject
from eval_recipes.steering.check import check, config_of, determinants, judge_config
from eval_recipes.steering.generate.language_model import Models
from eval_recipes.steering.generate.prompts import PUBLISHED_PROMPTS
from eval_recipes.steering.generate.trials import Trial
from eval_recipes.steering.generate.write import strengths_by_amount, written_trials
from eval_recipes.steering.judges.judge_trials import Judges, judge_trials
from eval_recipes.steering.judges.probe import train_probe
from eval_recipes.steering.options import EVAL, SteeringEvalConfig, uses_chat
from eval_recipes.steering.results.build import Measured, build_output
from eval_recipes.steering.results.output import SteeringEvalOutput
from eval_recipes.steering.results.texts import TEXTS_SUFFIX, read_texts, texts_table
from eval_recipes.steering.select.candidates import (
    Chosen,
    choose,
    known_stability,
    with_explanations,
)
from eval_recipes.steering.select.explanations import explain
from eval_recipes.steering.select.latents import read_latents
from eval_recipes.steering.stats.steered_contrast import ContrastReport, contrast_report
from saereg_plugin.errors import InputError

__all__ = [
    "SIDE_FILES",
    "check",
    "check_server",
    "determinants",
    "evaluate",
    "run",
]

SIDE_FILES = (TEXTS_SUFFIX,)
"""Endings of what is written next to each result."""


def check_server(context: RunContext) -> None:
    """
    Prove that the chat model answers and knows key and model, if one is asked.

    Raises:
        InputError: if it does not.
    """
    config = config_of(context)
    if uses_chat(config):
        check_judge(judge_config(context, config))


def run(context: RunContext) -> list[Failure]:
    """
    Evaluate every subject and write its result and its texts; return those that failed.

    All SAEs share one budget of the chat model, ``context.judge_budget`` if there is one. An SAE
    with pairs that have no reply yet fails; the next run goes on from there.

    Raises:
        InputError: see ``check``.
    """
    check(context)
    config = config_of(context)
    client: JudgeClient | None = None
    if uses_chat(config):
        client = JudgeClient(
            judge_config(context, config),
            context.artifacts,
            budget=context.judge_budget,
        )
    try:
        if client is not None:
            try:
                client.check()
            except InputError as error:
                cause = f"{type(error).__name__}: {error}"
                return [
                    Failure(EVAL, subject.sae_id, cause) for subject in context.subjects
                ]
        judges = Judges(config, client)
        models = Models(context, config)
        return each_subject(
            EVAL,
            context,
            lambda subject: evaluate(context, subject, config, judges, models),
        )
    finally:
        if client is not None:
            client.close()


def evaluate(
    context: RunContext,
    subject: Subject,
    config: SteeringEvalConfig,
    judges: Judges,
    models: Models,
) -> Path:
    """
    Evaluate one SAE and return the path of its result.

    Raises:
        InputError: if no candidate has an explanation (but with ``select=contrast``), or nothing
            can be steered.
        UnansweredError: if the chat model left pairs without a reply.
        NoVerdictError: if it has no verdict on any pair.
    """
    sae = subject.load(context.device)
    stability = known_stability(subject, config)
    chosen = choose(subject, sae, config, stability.shares, models)
    found = explain(
        context,
        subject,
        sae,
        chosen.candidates.ids,
        chosen.pool,
        config,
        judges.client,
        models,
    )
    explained = with_explanations(chosen.candidates, found.explanations)
    # the classifier of a contrast needs no explanation
    steered = explained.ids if chosen.sets is None else chosen.candidates.ids
    if not steered:
        raise InputError(
            f"None of {len(chosen.candidates.ids)} candidates of SAE {subject.sae_id!r} has an "
            "explanation; expected one or more. Choose other latents, or explain them on more "
            "text (explainer_tokens)."
        )
    model = models.get(sae)
    latents = read_latents(sae, steered)
    prompts = latents.prompts(model.tokenizer, config.prompts)
    norm = models.norm(sae, latents)
    by_amount, without = strengths_by_amount(
        model, latents, prompts, norm.value, config
    )
    trials = written_trials(context, sae, model, latents, prompts, by_amount, config)
    concepts = {latent: one.text for latent, one in explained.explanations.items()}
    judged = judge_trials(trials, concepts, prompts, model, judges)
    table = texts_table(judged, explained.explanations, stability, prompts, subject)
    unlike = differences(sae, config, found.explainer)

    def build(texts: StoredTable) -> SteeringEvalOutput:
        measured = Measured(
            texts=read_texts(texts.path),
            stored=texts.about,
            judges=judged.judges,
            candidates=chosen.candidates,
            explained=explained,
            without_strength=without,
            norm=norm,
            contrast=_contrast(judged.trials, chosen, config, judges),
            extra={
                "backend": model.kind,
                "model": model.name,
                "dtype": str(model.backend.dtype).removeprefix("torch."),
                "explainer": found.explainer,
                "explanations_from": "result" if config.explanations else "this run",
                "comparable_with_published": not unlike,
                "unlike_published": unlike,
            },
        )
        return build_output(measured, subject, base_fields(subject, sae), config)

    path = result_path(context.out, EVAL, subject.release, subject.sae_id)
    return write_with_table(path, TEXTS_SUFFIX, table, build)


def _contrast(
    trials: Sequence[Trial],
    chosen: Chosen,
    config: SteeringEvalConfig,
    judges: Judges,
) -> ContrastReport | None:
    if chosen.sets is None:
        return None
    a, b = chosen.sets.a, chosen.sets.b
    probe = train_probe(a, b, judges.sentences.embed, seed=config.random_seed)
    return contrast_report(
        trials,
        chosen.separating,
        probe,
        (len(a), len(b)),
        config.amounts,
        seed=config.random_seed,
    )


MODEL = "pythia-70m-deduped"
HOOK = "blocks.3.hook_resid_post"
JUDGE = "gpt-5.1"
ALPHA = 5.0
LATENTS = 300


def differences(
    sae: SAE[Any], config: SteeringEvalConfig, explainer: str
) -> dict[str, Any]:
    """
    Return the settings in which a run is not the published one, with their values.

    Explanations count as published if a language model made them; which one the paper does
    not fix for others.

    Args:
        sae: the SAE.
        config: the settings.
        explainer: what made the explanations: "tokens", or a model's name.
    """
    metadata = sae.cfg.metadata
    model = str(metadata.model_name).rpartition("/")[2]
    judge = config.judge_model if config.judges[0] == "chat" else config.judges[0]
    found = {
        "model": (model, MODEL),
        "hook": (metadata.hook_name, HOOK),
        "judge": (judge, JUDGE),
        "judge_temperature": (config.judge_temperature, 0.0),
        "select": (config.select if config.latents is None else "given", "random"),
        "n_latents": (config.n_latents, LATENTS),
        "prompts": (tuple(config.prompts), PUBLISHED_PROMPTS),
        "strength_mode": (config.strength_mode, "fixed"),
        "amount": (config.amounts[0], ALPHA),
        "positions": (config.positions, "generation"),
        "new_tokens": (config.new_tokens, 30),
        "greedy": (config.greedy, False),
        "temperature": (config.temperature, 0.7),
        "top_p": (config.top_p, 0.9),
        "samples_per_prompt": (config.samples_per_prompt, 1),
    }
    differing: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, (value, published) in found.items()
        if value != published
    }
    if explainer == "tokens":
        differing["explainer"] = explainer
    return differing
