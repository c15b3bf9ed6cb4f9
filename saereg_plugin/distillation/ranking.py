"""Attribution and firing of latents on training text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor
from tqdm.auto import tqdm

from saereg_plugin.activations.language_model import Contexts
from saereg_plugin.distillation.settings import Distill
from saereg_plugin.finetuning.contexts import ContextSource, Order
from saereg_plugin.finetuning.frozen_model import CleanPass, FrozenModel
from saereg_plugin.finetuning.losses import Objective
from saereg_plugin.machine import resolve_device
from saereg_plugin.metrics.attribution import (
    ScoreTally,
    codes_of,
    next_token_losses,
    token_scores,
)
from saereg_plugin.sources import corpora, models
from saereg_plugin.sweeps.config import SweepConfig
from saereg_plugin.sweeps.source import with_source

_CONTEXTS = 8
"""Contexts in one pass, at most: all their logits are in memory."""


@dataclass(frozen=True)
class LatentFigures:
    """
    Figures of the latents of one SAE.

    Attributes:
        fires: tokens on which each latent fires, int64 [d_sae].
        scores: attribution of each latent, float64 [d_sae].
        tokens: tokens that were read.
    """

    fires: Tensor
    scores: Tensor
    tokens: int


def measure_latents(
    settings: Distill,
    sweep: SweepConfig,
    saes: Mapping[str, SAE[Any]],
) -> dict[str, LatentFigures]:
    """
    Return firing and attribution of latents on the first tokens of the training text.

    The language model runs in float32.

    Args:
        settings: of the distillation.
        sweep: that trained the SAEs.
        saes: on one hook, by id.
    """
    source, point = _open(sweep)
    for sae in saes.values():
        if sae.hook_z_reshaping_mode:
            sae.turn_off_forward_pass_hook_z_reshaping()
    most = settings.score_tokens
    tallies = {
        name: ScoreTally(int(sae.cfg.d_sae), tokens=most, quantile=settings.quantile)
        for name, sae in saes.items()
    }
    read = 0
    with tqdm(total=most, desc="Ranking latents", unit="tok", unit_scale=True) as bar:
        while read < most:
            tokens = source.tokens()
            clean = source.frozen.clean(tokens, source.keep(tokens))
            rows = clean.rows(point)[: most - read]
            shared: Tensor | None = None
            if settings.gradient == "activations":
                shared = gradient_at(
                    source.frozen, clean, point, clean.activations[point]
                )[: len(rows)]
            for name, sae in saes.items():
                with torch.no_grad():
                    codes = codes_of(sae.encode(rows.to(sae.dtype)))
                found = shared
                if found is None:
                    changed = _with_reconstruction(clean, point, sae)
                    found = gradient_at(source.frozen, clean, point, changed)
                scores = token_scores(found[: len(rows)], codes, sae.W_dec)
                tallies[name].update(codes, scores)
            read += len(rows)
            bar.update(len(rows))
    return {
        name: LatentFigures(tally.fires, tally.quantiles(), read)
        for name, tally in tallies.items()
    }


def gradient_at(
    frozen: FrozenModel, clean: CleanPass, point: str, activations: Tensor
) -> Tensor:
    """
    Return the gradient of the summed next-token loss at a hook, [kept tokens, d_in].

    Args:
        frozen: the language model.
        clean: the pass of the same contexts.
        point: the hook.
        activations: what is there, of the shape of the clean activations.
    """
    changed = activations.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits, _ = frozen.patched(clean, point, changed)
        loss = next_token_losses(logits, clean.tokens).sum()
    (gradient,) = torch.autograd.grad(loss, changed)
    return gradient.flatten(2)[clean.keep].float()


@torch.no_grad()
def _with_reconstruction(clean: CleanPass, point: str, sae: SAE[Any]) -> Tensor:
    """Return the activations with an SAE's output at the kept tokens."""
    rows = sae(clean.rows(point).to(sae.dtype))
    return clean.with_rows(point, rows, torch.arange(len(rows), device=rows.device))


def _open(sweep: SweepConfig) -> tuple[ContextSource, str]:
    """Return the training text with the language model, and the hook."""
    sweep, facts = with_source(sweep)
    (point,) = facts.points
    device = resolve_device(sweep.device)
    corpora.ensure(sweep.corpus, "train")
    model = models.load(sweep.model, dtype="float32", device=device)
    source = ContextSource(
        model,
        objective=Objective("mse"),
        order=Order(first=0, seed=sweep.seed),
        model_name=sweep.model,
        corpus=sweep.corpus,
        points=facts.points,
        contexts=Contexts(
            context_size=sweep.context_size,
            per_pass=min(sweep.prompts_per_pass, _CONTEXTS),
            prepend_bos=sweep.prepend_bos,
            exclude_special_tokens=sweep.exclude_special_tokens,
            disable_concat_sequences=sweep.disable_concat_sequences,
        ),
        device=device,
        batch_size=sweep.batch_size,
        total_tokens=sweep.tokens,
    )
    return source, point
