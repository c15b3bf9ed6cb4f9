"""Strengths and texts of one SAE, kept among the artefacts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sae_lens import SAE

from eval_recipes.running.artifacts import artifact_folder, weights_hash
from eval_recipes.running.context import RunContext
from eval_recipes.steering.generate.language_model import LanguageModel
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.generate.strengths import StrengthRule, strengths
from eval_recipes.steering.generate.trials import Trial, make_trials
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select.latents import Latents
from saereg_plugin.errors import InputError


def strengths_by_amount(
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


def strengths_key(
    by_amount: Mapping[float, Sequence[float]],
) -> dict[float, list[float | None]]:
    """Return strengths as a key of artefacts holds them: JSON has no NaN, so None for it."""
    return {
        amount: [value if math.isfinite(value) else None for value in values]
        for amount, values in by_amount.items()
    }


def folder_keys(
    by_amount: Mapping[float, Sequence[float]], config: SteeringEvalConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what else the texts depend on: steered ones, and those with nothing added."""
    steered = {"strengths": strengths_key(by_amount), "positions": config.positions}
    nothing_added = {
        # which texts there are differs
        "greedy": config.greedy,
        # how many prompts are read at a time differs, and with it what low precision rounds
        "prompts_steered": config.positions == "all",
    }
    return steered, nothing_added


def written_trials(
    context: RunContext,
    sae: SAE[Any],
    model: LanguageModel,
    latents: Latents,
    prompts: Sequence[Prompt],
    by_amount: dict[float, list[float]],
    config: SteeringEvalConfig,
) -> list[Trial]:
    """Return every pair of texts; batches that were written before come from the artefacts."""
    weights = weights_hash(sae)
    common = {
        "sae": weights,
        "model": context.models.identity(model.name),
        "backend": model.kind,
        "latents": latents.ids,
        "prompts": config.prompts,
        "new_tokens": config.new_tokens,
        "decoding": [config.temperature, config.top_p],
        "samples": [config.samples_per_prompt, config.calibration_pairs],
        "batch_size": config.batch_size,
        "dtype": context.dtype,
        "device": context.device,
        "seed": config.random_seed,
    }
    folder, unsteered = (
        artifact_folder(context.artifacts, "steering_texts", {**common, **more})
        for more in folder_keys(by_amount, config)
    )
    return make_trials(
        model,
        latents,
        prompts,
        by_amount,
        config,
        weights=weights,
        folder=folder,
        unsteered=unsteered,
    )
