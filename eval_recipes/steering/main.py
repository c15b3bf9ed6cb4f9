"""Runs the steering evaluation: latents, explanations, texts, verdicts, result, SAE by SAE."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens import SAE
from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

from eval_recipes.artifacts import artifact_folder, weights_hash
from eval_recipes.context import Failure, RunContext, Subject
from eval_recipes.judge import JudgeClient, JudgeConfig, read_key
from eval_recipes.results import (
    base_fields,
    check_unique_paths,
    result_path,
    write_result,
)
from eval_recipes.saebench.autointerp_figures import Explanation
from eval_recipes.saebench.recipe import each_subject
from eval_recipes.steering import contrast_data
from eval_recipes.steering.arms import Trial, make_trials
from eval_recipes.steering.candidates import (
    Candidates,
    alive_pool,
    draw,
    explanations_of,
    find_result,
    given,
    stability_of,
    stable_pool,
    with_explanations,
)
from eval_recipes.steering.config import (
    CHAT_ONLY,
    EVAL,
    PACING,
    SteeringEvalConfig,
    make_config,
    uses_chat,
)
from eval_recipes.steering.contrast import Separating, best_latents
from eval_recipes.steering.explaining import explain
from eval_recipes.steering.judging import Judges, judge_trials
from eval_recipes.steering.language_model import (
    NORM_TEXTS,
    LanguageModel,
    corpus_texts,
    language_model,
    median_norm,
)
from eval_recipes.steering.latents import Latents, read_latents
from eval_recipes.steering.probe import train_probe
from eval_recipes.steering.prompts import Prompt
from eval_recipes.steering.report import Measured, build_output
from eval_recipes.steering.steered_contrast import ContrastReport, contrast_report
from eval_recipes.steering.stored import stored_trials
from eval_recipes.steering.strengths import StrengthRule, strengths
from eval_recipes.steering.texts import (
    read_texts,
    texts_path,
    texts_table,
    write_texts,
)
from saereg_plugin.errors import InputError
from saereg_plugin.files import sha256

logger = logging.getLogger(__name__)


def config_of(context: RunContext) -> SteeringEvalConfig:
    """Return the settings of a run; raises InputError for a wrong option."""
    return make_config(
        context.options.get(EVAL, {}), random_seed=context.seed, corpus=context.corpus
    )


def judge_config(context: RunContext, config: SteeringEvalConfig) -> JudgeConfig:
    """Return the chat model's settings; raises InputError for an impossible one."""
    return JudgeConfig(
        model=config.judge_model,
        base_url=config.judge_base_url,
        temperature=config.judge_temperature,
        concurrency=config.judge_concurrency,
        timeout_seconds=config.judge_timeout_seconds,
        attempts=config.judge_attempts,
        backoff_seconds=config.judge_backoff_seconds,
        max_calls=config.judge_max_calls,
        max_tokens=config.judge_max_tokens,
        seed=context.seed,
    )


def check(context: RunContext) -> None:
    """
    Refuse what cannot work before anything is loaded; the chat model is left alone.

    Raises:
        InputError: for options, SAEs, files or results that nothing could run with, and for
            a missing key.
    """
    config = config_of(context)
    check_unique_paths(context.subjects)
    if config.contrast is not None and config.latents is None:
        contrast_data.TextSets.read(config.contrast)
    for subject in context.subjects:
        cfg = load_sae_config_from_huggingface(subject.release, subject.sae_id)
        if config.latents is not None:
            given(config.latents, d_sae=int(cfg["d_sae"]))
        _results(subject, config)
    if uses_chat(config):
        judge_config(context, config)
        read_key()


def _results(subject: Subject, config: SteeringEvalConfig) -> dict[str, Path]:
    """Return the results of other evaluations that are read for an SAE."""
    folders = {"cross_seed": config.stability, "autointerp": config.explanations}
    return {
        name: find_result(Path(folder), subject, eval=name)
        for name, folder in folders.items()
        if folder is not None
    }


def determinants(context: RunContext) -> dict[str, Any]:
    """
    Return the resolved options that a result depends on, and the files it reads.

    Options that only limit or pace requests are left out, and the chat model's where none is
    asked.

    Raises:
        InputError: for an unusable option or a file that is missing.
    """
    config = config_of(context)
    chat = uses_chat(config)
    chosen = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in PACING and (chat or field.name not in CHAT_ONLY)
    }
    if chat:
        chosen["judge_base_url"] = judge_config(context, config).url
    if config.contrast is not None:
        chosen["contrast"] = contrast_data.identity(config.contrast)
    chosen["read"] = {
        f"{subject.release}/{subject.sae_id}/{name}": sha256(path)
        for subject in context.subjects
        for name, path in _results(subject, config).items()
    }
    return chosen


def run(context: RunContext) -> list[Failure]:
    """
    Evaluate every subject and write its result and its texts; return those that failed.

    All SAEs share one budget of the chat model. An SAE with pairs that have no reply yet
    fails; the next run goes on from there.

    Raises:
        InputError: see ``check``.
    """
    check(context)
    config = config_of(context)
    for subject in context.subjects:
        # a failed rerun must not leave the texts of an earlier one
        texts_path(_path(context, subject)).unlink(missing_ok=True)
    client: JudgeClient | None = None
    if uses_chat(config):
        client = JudgeClient(judge_config(context, config), context.artifacts)
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
        models = _Models(context, config)
        return each_subject(
            EVAL,
            context,
            lambda subject: evaluate(context, subject, config, judges, models),
        )
    finally:
        if client is not None:
            client.close()


class _Models:
    """Keeps the last language model, and the median norms that were measured with it."""

    def __init__(self, context: RunContext, config: SteeringEvalConfig) -> None:
        self.context = context
        self.config = config
        self._key: Any = None
        self._model: LanguageModel | None = None
        self._norms: dict[Any, Any] = {}

    def get(self, sae: SAE[Any]) -> LanguageModel:
        """Return the model that an SAE was trained on."""
        metadata = sae.cfg.metadata
        kwargs = metadata.model_from_pretrained_kwargs
        key = (metadata.model_name, str(kwargs), metadata.hook_name)
        if self._model is None or key != self._key:
            # dropped first, so that two models are never in memory together
            self._model = None
            self._model, self._key = (
                language_model(self.context, sae, self.config),
                key,
            )
        return self._model

    def norm(self, sae: SAE[Any], latents: Latents) -> Any:
        """Return the median residual norm at an SAE's hook."""
        model = self.get(sae)
        key = (self._key, latents.prepend_bos)
        if key not in self._norms:
            self._norms[key] = median_norm(
                model,
                latents.hook_name,
                corpus_texts(self.config.corpus, NORM_TEXTS),
                prepend_bos=latents.prepend_bos,
            )
        return self._norms[key]


@dataclass(frozen=True)
class _Chosen:
    """Latents, and what they were chosen by."""

    candidates: Candidates
    pool: list[int]
    separating: list[Separating]
    sets: contrast_data.TextSets | None


def evaluate(
    context: RunContext,
    subject: Subject,
    config: SteeringEvalConfig,
    judges: Judges,
    models: _Models,
) -> Path:
    """
    Evaluate one SAE and return the path of its result.

    Raises:
        InputError: if no candidate has an explanation, or nothing can be steered.
        UnansweredError: if the chat model left pairs without a reply.
    """
    sae = subject.load(context.device)
    stability = _stability(subject, config)
    chosen = _choose(subject, sae, config, stability, models)
    found = explain(
        context,
        subject,
        sae,
        chosen.candidates.ids,
        chosen.pool,
        config,
        judges.client,
    )
    explained = with_explanations(chosen.candidates, found)
    if not explained.ids:
        raise InputError(
            f"None of {len(chosen.candidates.ids)} candidates of SAE {subject.sae_id!r} has an "
            "explanation; expected one or more. Choose other latents, or explain them on more "
            "text (explainer_tokens)."
        )
    model = models.get(sae)
    latents = read_latents(sae, explained.ids)
    prompts = latents.prompts(model.tokenizer, config.prompts)
    norm = models.norm(sae, latents)
    by_amount, without = _strengths(model, latents, prompts, norm.value, config)
    trials = _trials(context, sae, model, latents, prompts, by_amount, config)
    concepts = {latent: one.text for latent, one in explained.explanations.items()}
    judged = judge_trials(trials, concepts, prompts, model, judges)
    path = _path(context, subject)
    table = texts_table(judged, explained.explanations, stability, prompts, subject)
    # the texts first: a result never names a file that is not there
    stored = write_texts(path, table)
    measured = Measured(
        texts=read_texts(texts_path(path)),
        stored=stored,
        judges=judged.judges,
        candidates=chosen.candidates,
        explained=explained,
        without_strength=without,
        norm=norm,
        contrast=_contrast(
            judged.trials, chosen, explained.explanations, config, judges
        ),
        extra={
            "backend": model.kind,
            "explainer": config.explanations or config.explainer,
            "comparable_with_published": False,
        },
    )
    output = build_output(measured, subject, base_fields(subject, sae), config)
    return write_result(path, output)


def _choose(
    subject: Subject,
    sae: SAE[Any],
    config: SteeringEvalConfig,
    stability: Mapping[int, float],
    models: _Models,
) -> _Chosen:
    pool = alive_pool(sae.W_enc, sae.W_dec, threshold=config.alive_threshold)
    if config.latents is not None:
        named = given(config.latents, d_sae=int(sae.W_dec.shape[0]))
        return _Chosen(named, pool, [], None)
    if config.select == "contrast":
        assert config.contrast is not None
        sets = contrast_data.TextSets.read(config.contrast)
        model = models.get(sae)
        a, b = (
            contrast_data.mean_activations(model, sae, texts)
            for texts in (sets.a, sets.b)
        )
        best = best_latents(a, b, pool, config.n_latents, seed=config.random_seed)
        ids = tuple(one.latent for one in best)
        return _Chosen(Candidates(ids, len(pool), config.n_latents), pool, best, sets)
    of_choice = pool
    if config.select == "stable":
        of_choice = stable_pool(pool, stability, minimum=config.stable_minimum)
    elif config.select == "explained":
        assert config.explanations is not None
        known = explanations_of(Path(config.explanations), subject)
        of_choice = sorted(known)
    drawn = draw(of_choice, config.n_latents, seed=config.random_seed)
    return _Chosen(drawn, pool, [], None)


def _stability(subject: Subject, config: SteeringEvalConfig) -> dict[int, float]:
    folder = config.stability
    return {} if folder is None else stability_of(Path(folder), subject)


def _strengths(
    model: LanguageModel,
    latents: Latents,
    prompts: Sequence[Prompt],
    norm: float,
    config: SteeringEvalConfig,
) -> tuple[dict[float, list[float]], dict[float, tuple[int, ...]]]:
    """Return the strength of each latent by amount, and the latents without one by amount."""
    values: dict[float, list[float]] = {}
    without: dict[float, tuple[int, ...]] = {}
    for amount in config.amounts:
        mode = config.strength_mode
        rule = (
            StrengthRule(mode="fixed", amount=amount * norm)
            if mode == "norm_ratio"
            else StrengthRule(mode=mode, amount=amount)
        )
        found = strengths(rule, latents, backend=model.backend, prompts=prompts)
        values[amount] = found.values.tolist()
        without[amount] = (*found.near_zero, *found.opposed)
    if all(len(ids) == len(latents.ids) for ids in without.values()):
        raise InputError(
            f"No latent can reach a target pre-activation (cosines of encoder and decoder "
            f"below .01 for all {len(latents.ids)}); choose another strength_mode."
        )
    return values, without


def _trials(
    context: RunContext,
    sae: SAE[Any],
    model: LanguageModel,
    latents: Latents,
    prompts: Sequence[Prompt],
    by_amount: dict[float, list[float]],
    config: SteeringEvalConfig,
) -> list[Trial]:
    """Return every pair of texts, from the artefacts if they were written before."""
    folder = artifact_folder(
        context.artifacts,
        "steering_texts",
        {
            "sae": weights_hash(sae),
            "model": context.models.identity(model.name),
            "backend": model.kind,
            "latents": latents.ids,
            "strengths": by_amount,
            "prompts": config.prompts,
            "positions": config.positions,
            "new_tokens": config.new_tokens,
            "decoding": [config.greedy, config.temperature, config.top_p],
            "samples": [config.samples_per_prompt, config.unsteered_samples],
            "batch_size": config.batch_size,
            "dtype": context.dtype,
            "device": context.device,
            "seed": config.random_seed,
        },
    )
    return stored_trials(
        folder, lambda: make_trials(model, latents, prompts, by_amount, config)
    )


def _contrast(
    trials: Sequence[Trial],
    chosen: _Chosen,
    explanations: Mapping[int, Explanation],
    config: SteeringEvalConfig,
    judges: Judges,
) -> ContrastReport | None:
    if chosen.sets is None:
        return None
    a, b = chosen.sets.a, chosen.sets.b
    probe = train_probe(a, b, judges.sentences.embed, seed=config.random_seed)
    return contrast_report(
        trials,
        # a latent without explanation was not steered with
        [one for one in chosen.separating if one.latent in explanations],
        probe,
        (len(a), len(b)),
        config.amounts,
        seed=config.random_seed,
    )


def _path(context: RunContext, subject: Subject) -> Path:
    return result_path(context.out, EVAL, subject.release, subject.sae_id)
