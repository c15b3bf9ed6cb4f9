"""Codes that are planted: known frequencies, values, residuals."""

from __future__ import annotations

import torch
from torch import Tensor

from eval_recipes.mdl.tally import HeldOutCodes
from eval_recipes.statistics.interval import ContextSums
from saereg_plugin.metrics import Codes


def held_codes(
    z: Tensor,
    directions: Tensor,
    residual: Tensor,
    *,
    contexts: int = 4,
    factors: Tensor | None = None,
) -> HeldOutCodes:
    """
    Codes [rows, d_sae] with residuals x - x_hat [rows, d_in], contexts of equal size.

    ``factors`` are f of each row, 1 by default.
    """
    codes = Codes.of(z.float())
    f = torch.ones(len(z)) if factors is None else factors
    dots = (residual.float() @ directions.float().T)[codes.images, codes.latents]
    return HeldOutCodes(
        codes=codes,
        products=dots * f[codes.images],
        factors=f,
        residual=residual.double().square().sum(1),
        contexts=torch.arange(len(z)) * contexts // len(z),
        directions=directions.float(),
        n_contexts=contexts,
    )


def sums_of(x: Tensor, contexts: int = 4) -> ContextSums:
    """Sums of activations [rows, d_in] over contexts of equal size."""
    parts = x.double().view(contexts, -1, x.shape[1])
    return ContextSums(
        count=torch.full((contexts,), parts.shape[1]).double().numpy(),
        total=parts.sum(1).numpy(),
        square=parts.square().sum((1, 2)).numpy(),
    )


def bernoulli_uniform(fires: list[int], rows: int, values: int) -> Tensor:
    """
    Codes [rows, latents] whose latent j fires on ``fires[j]`` rows.

    Each fires equally often with each of the values (i + 1/2) / values, i < values.
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.zeros(rows, len(fires))
    for latent, n in enumerate(fires):
        grid = (torch.arange(n) % values + 0.5) / values
        z[torch.randperm(rows, generator=generator)[:n], latent] = grid
    return z
