"""Settings of a run, what is refused before anything is loaded, and what decides a result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

from eval_recipes.chat import JudgeConfig, read_key
from eval_recipes.cross_seed.stability_table import read_stability
from eval_recipes.results.files import check_unique_paths, read_result
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.autointerp.main import read_explanations
from eval_recipes.saebench.autointerp.options import prompts_identity
from eval_recipes.steering.generate.backend import parse_hook
from eval_recipes.steering.judges.chat import prompt_identity
from eval_recipes.steering.options import (
    CHAT_ONLY,
    EVAL,
    PACING,
    SteeringEvalConfig,
    make_config,
    uses_chat,
)
from eval_recipes.steering.select import contrast as contrast_data
from eval_recipes.steering.select.candidates import find_result, given

TEXTS_FORMAT = 2
"""Of the stored texts. 2: with the scores that thresholds were learned from."""


def config_of(context: RunContext) -> SteeringEvalConfig:
    """Return the settings of a run; raises InputError for a wrong option."""
    return make_config(
        context.options.get(EVAL, {}), random_seed=context.seed, corpus=context.corpus
    )


def judge_config(context: RunContext, config: SteeringEvalConfig) -> JudgeConfig:
    """Return the chat model's settings; raises InputError for an impossible one."""
    return judge_settings(config, seed=context.seed)


def judge_settings(config: SteeringEvalConfig, *, seed: int) -> JudgeConfig:
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
        seed=seed,
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
        metadata = cfg.get("metadata") or cfg
        if hook := metadata.get("hook_name"):
            # how many layers there are is known when the model is
            parse_hook(hook, sys.maxsize)
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
    asked. What is read of other results stands there for each of the context's SAEs: ask for
    one SAE alone to have a key that others cannot change.

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
    # text is in every key by what it is, not where it lies
    del chosen["corpus"]
    explains = config.explanations is None
    if not explains:
        del chosen["explainer"]
    if chat:
        chosen["judge_base_url"] = judge_config(context, config).url
        chosen["prompts"] = {
            "judge": prompt_identity() if "chat" in config.judges else None,
            "explainer": prompts_identity()
            if explains and config.explainer == "judge"
            else None,
        }
    if config.contrast is not None:
        chosen["contrast"] = contrast_data.identity(config.contrast)
    for name in ("stability", "explanations"):
        # where they lie decides nothing; what is in them does
        chosen[name] = chosen[name] is not None
    chosen["texts"] = TEXTS_FORMAT
    chosen["read"] = {
        f"{subject.release}/{subject.sae_id}/{name}": _contents(name, path)
        for subject in context.subjects
        for name, path in _results(subject, config).items()
    }
    return chosen


def _contents(name: str, path: Path) -> str:
    """Return a hash of what is read of a result, which has a date and an id besides."""
    if name == "cross_seed":
        # refuses a table that is not the result's
        read_stability(path)
        named = read_result(path)["eval_result_unstructured"]["stability_table"]
        return str(named["sha256"])
    read = {
        str(latent): dataclasses.asdict(one)
        for latent, one in sorted(read_explanations(path).items())
    }
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()
