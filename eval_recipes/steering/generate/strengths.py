"""Strengths of one SAE's latents, and the artefact folders of its texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.running.artifacts import artifact_folder, weights_hash
from eval_recipes.running.context import RunContext
from eval_recipes.steering.generate.backend import Backend
from eval_recipes.steering.generate.language_model import LanguageModel
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.generate.trials import Trial, make_trials
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select.latents import Latents
from saereg_plugin.errors import InputError, suggest

Mode = Literal["fixed", "resid_rms", "target_preact"]

LEAST_COSINE = 0.01
"""|cos(enc_j, dec_j)| below which a target pre-activation would take 100 times the strength."""


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
    """Return strengths for a key of artefacts, with None for NaN, which JSON lacks."""
    return {
        amount: [value if math.isfinite(value) else None for value in values]
        for amount, values in by_amount.items()
    }


def folder_keys(
    by_amount: Mapping[float, Sequence[float]], config: SteeringEvalConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what else the texts depend on: steered texts, and texts with nothing added."""
    steered = {"strengths": strengths_key(by_amount), "positions": config.positions}
    nothing_added = {
        # the set of texts differs
        "greedy": config.greedy,
        # the number of prompts read at a time differs, and with it rounding in low precision
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
    """Return every pair of texts; batches written before come from the artefacts."""
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


@dataclass(frozen=True, kw_only=True)
class StrengthRule:
    """
    How strength follows from an amount.

    - ``fixed``: the amount itself, alpha.
    - ``resid_rms``: the amount times the residual stream's RMS over coordinates,
      norm / sqrt(d), at the prompts' last tokens, averaged over prompts.
    - ``target_preact``: what raises latent j's pre-activation by the amount,
      amount / <enc_j, dec_j / ||dec_j||>.
    """

    mode: Mode = "fixed"
    amount: float = 5.0

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise InputError(
                f"Unknown strength mode {self.mode!r}. {suggest(self.mode, get_args(Mode))}"
            )
        if not math.isfinite(self.amount):
            raise InputError(
                f"The strength's amount is {self.amount}; expected a finite number."
            )


@dataclass(frozen=True)
class Strengths:
    """Strengths of latents, and the latents without."""

    values: Tensor
    """[latent]; NaN where a target pre-activation cannot be reached."""
    near_zero: tuple[int, ...] = ()
    """Ids of latents with |cos(enc_j, dec_j)| below .01: they would need absurd strengths."""
    opposed: tuple[int, ...] = ()
    """Ids of latents with a cosine of -.01 or less, which would be steered against their own
    decoder direction."""


def strengths(
    rule: StrengthRule,
    latents: Latents,
    *,
    backend: Backend | None = None,
    prompts: Sequence[Prompt] = (),
) -> Strengths:
    """
    Return the strength of each latent.

    ``resid_rms`` needs the language model and prompts, whose last tokens it measures.

    Raises:
        InputError: if ``resid_rms`` has no model or no prompts, or if the SAE scales its
            input, so that no constant slope leads to a target pre-activation.
    """
    n = len(latents.ids)
    if rule.mode == "fixed":
        return Strengths(torch.full((n,), rule.amount))
    if rule.mode == "resid_rms":
        if backend is None or not prompts:
            raise InputError(
                "Strength mode 'resid_rms' measures the residual stream; expected a model and "
                "one or more prompts."
            )
        norms = last_token_norms(backend, prompts, latents.hook_name)
        rms = float(norms.mean()) / math.sqrt(backend.d_model)
        return Strengths(torch.full((n,), rule.amount * rms))
    if latents.normalised != "none":
        raise InputError(
            f"The SAE scales its input (normalize_activations={latents.normalised!r}); expected "
            "'none' for strength mode 'target_preact'. Fold the scaling into the SAE, or use "
            "'fixed' or 'resid_rms'."
        )
    usable = latents.cosines >= LEAST_COSINE
    opposed = latents.cosines <= -LEAST_COSINE
    ids = torch.tensor(latents.ids)
    return Strengths(
        # a latent without a strength gets NaN
        rule.amount / torch.where(usable, latents.slopes, math.nan),
        near_zero=tuple(ids[~usable & ~opposed].tolist()),
        opposed=tuple(ids[opposed].tolist()),
    )


@torch.no_grad()
def last_token_norms(
    backend: Backend, prompts: Sequence[Prompt], hook_name: str
) -> Tensor:
    """Return the residual stream's norms at the prompts' last tokens [prompt]; float32."""
    norms: list[float] = []
    for prompt in prompts:
        tokens = torch.tensor([prompt.tokens], device=backend.device)

        def keep(residual: Tensor) -> Tensor:
            norms.append(float(residual[0, -1].float().norm()))
            return residual

        with backend.intervene(hook_name, keep):
            backend.read(tokens, None)
    return torch.tensor(norms)
