"""What one trained SAE does on the training images, and what its best-aligned latents alone do."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eval_recipes.studies.mnist.weights import Weights
from saereg_plugin.metrics import alive_mask, encoder_decoder_cosines

KEPT_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Shares of all latents that are kept for the reconstruction error by alignment."""

_BATCH = 1000


class Evaluation(NamedTuple):
    """Figures of one SAE over all training images: a census, so without intervals."""

    mse: float
    """Mean over images and pixels, pixels in [0, 1]."""
    variance_explained: float
    """1 - squared error over squared distance to the mean image."""
    density: float
    """Share of activations that are not zero."""
    firing: int
    """Latents that fire on at least one image."""
    alive: int
    """Latents with cos(enc, dec) > .1 (the paper's definition)."""
    dead: int
    """Latents that are not alive."""
    kept_mse: tuple[float, ...]
    """MSE with only the share ``KEPT_SHARES`` of latents of largest cos(enc, dec)."""


@torch.no_grad()
def evaluate(weights: Weights, pixels: Tensor) -> Evaluation:
    """Return the figures over all ``pixels`` [n, d_in] uint8."""
    cosines = encoder_decoder_cosines(weights.enc, weights.dec)
    d_sae = len(cosines)
    order = cosines.argsort(descending=True, stable=True)
    bounds = [0, *(max(1, round(share * d_sae)) for share in KEPT_SHARES)]
    errors = torch.zeros(len(KEPT_SHARES), dtype=torch.float64)
    spread = 0.0
    active = torch.zeros(d_sae, dtype=torch.float64)
    mean = pixels.float().mean(dim=0).div_(255)
    for block in pixels.split(_BATCH):
        x = block.float().div_(255)
        acts = weights.encode(x)
        active += (acts > 0).float().sum(dim=0)
        spread += float((x - mean).square().sum(dtype=torch.float64))
        residual = x
        # each share adds its latents to the ones before: one decoding in all
        for number, (start, end) in enumerate(zip(bounds, bounds[1:])):
            chosen = order[start:end]
            residual = residual - acts[:, chosen] @ weights.dec[chosen]
            errors[number] += residual.square().sum(dtype=torch.float64)
    alive = int(alive_mask(weights.enc, weights.dec).sum())
    kept = (errors / pixels.numel()).tolist()
    return Evaluation(
        mse=kept[-1],
        variance_explained=1 - float(errors[-1]) / spread,
        density=float(active.sum()) / (len(pixels) * d_sae),
        firing=int((active > 0).sum()),
        alive=alive,
        dead=d_sae - alive,
        kept_mse=tuple(kept),
    )
