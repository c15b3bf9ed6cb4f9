"""How strongly each latent is steered (arXiv 2603.04198)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from eval_recipes.steering.generate.backend import Backend
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.select.latents import Latents
from saereg_plugin.errors import InputError, suggest

Mode = Literal["fixed", "resid_rms", "target_preact"]

LEAST_COSINE = 0.01
"""At less |cos(enc_j, dec_j)| a target pre-activation would take 100 times the aligned strength."""


@dataclass(frozen=True, kw_only=True)
class StrengthRule:
    """
    How strength follows from an amount.

    Attributes:
        mode: ``fixed``: alpha itself. ``resid_rms``: n times the residual stream's RMS over
            coordinates, norm / sqrt(d), at the prompts' last tokens, averaged over prompts.
            ``target_preact``: what raises latent j's pre-activation by delta,
            delta / <enc_j, dec_j / ||dec_j||>.
        amount: alpha, n or delta.
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
    """
    Strengths of latents, and those that have none.

    Attributes:
        values: [latent]; NaN where a target pre-activation cannot be reached.
        near_zero: ids of latents with |cos(enc_j, dec_j)| below .01: their strength would be
            out of all proportion.
        opposed: ids of latents with a cosine of -.01 or less: they would be steered against
            their own decoder direction.
        rms: the residual stream's RMS, if the mode needs it.
    """

    values: Tensor
    near_zero: tuple[int, ...] = ()
    opposed: tuple[int, ...] = ()
    rms: float | None = None


def strengths(
    rule: StrengthRule,
    latents: Latents,
    *,
    backend: Backend | None = None,
    prompts: Sequence[Prompt] = (),
) -> Strengths:
    """
    Return the strength of each latent.

    Args:
        rule: mode and amount.
        latents: the latents.
        backend: the language model; only ``resid_rms`` needs it.
        prompts: whose last tokens ``resid_rms`` measures.

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
        rms = float(
            last_token_norms(backend, prompts, latents.hook_name).mean()
        ) / math.sqrt(backend.d_model)
        return Strengths(torch.full((n,), rule.amount * rms), rms=rms)
    if latents.normalised != "none":
        raise InputError(
            f"The SAE scales its input (normalize_activations={latents.normalised!r}); expected "
            "'none' for strength mode 'target_preact'. Fold the scaling into the SAE, or use "
            "'fixed' or 'resid_rms'."
        )
    usable = latents.cosines >= LEAST_COSINE
    opposed = latents.cosines <= -LEAST_COSINE
    # NaN stands where no division should be made.
    slopes = torch.where(usable, latents.slopes, math.nan)
    return Strengths(
        rule.amount / slopes,
        near_zero=_named(latents, ~usable & ~opposed),
        opposed=_named(latents, opposed),
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


def _named(latents: Latents, chosen: Tensor) -> tuple[int, ...]:
    return tuple(
        latent for latent, is_one in zip(latents.ids, chosen, strict=True) if is_one
    )
