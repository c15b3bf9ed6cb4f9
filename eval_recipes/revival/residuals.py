"""Residuals of SAEs by held-out context, and the latents that fire."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.running.heldout_pass import per_context
from eval_recipes.statistics.interval import Array, ContextSums

_CHUNK_VALUES = 1 << 24
"""Codes held at once."""


class ResidualTally:
    """Residuals of one SAE by context, and the latents that fire."""

    def __init__(self, sae: SAE[Any]) -> None:
        if sae.hook_z_reshaping_mode:
            sae.turn_off_forward_pass_hook_z_reshaping()
        self.sae = sae
        self.residual: list[Array] = []
        self.fired = torch.zeros(int(sae.cfg.d_sae), dtype=torch.bool)

    @property
    def by_context(self) -> Array:
        """Sum of ||x - x_hat||^2 over the kept tokens of each context."""
        return np.concatenate(self.residual)

    @torch.no_grad()
    def update(self, activations: Tensor, keep: Tensor) -> None:
        """Add activations (contexts, tokens, d_in); ``keep`` is False at special tokens."""
        at_once = max(1, _CHUNK_VALUES // (keep.shape[1] * len(self.fired)))
        for x, kept in zip(
            activations.split(at_once), keep.cpu().split(at_once), strict=True
        ):
            codes = self.sae.encode(x.to(self.sae.dtype))
            codes = codes.to_dense() if codes.is_sparse else codes
            error = x.double() - self.sae.decode(codes).double()
            squared = error.square().sum(-1).cpu()
            if not bool(squared.isfinite().all()):
                raise ValueError("its reconstruction holds NaN or infinity")
            self.residual.append(per_context(squared, kept))
            self.fired |= (codes[kept.to(codes.device)] != 0).any(0).cpu()


def spread(sums: ContextSums, weights: Array) -> Array:
    """Return the activations' variance about their mean, [weightings]."""
    mean_square = np.square(weights @ sums.total).sum(-1) / (weights @ sums.count)
    return weights @ sums.square - mean_square
