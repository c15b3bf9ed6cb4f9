"""Reconstruction by one trained SAE, and by its best-aligned latents alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eval_recipes.studies.mnist.weights import Weights
from saereg_plugin.metrics import alive_mask, encoder_decoder_cosines

KEPT_SHARES = (0.01, 0.02, 0.05, 0.1, 250 / 1568, 0.2, 0.3, 0.5, 0.75, 1.0)
"""
Shares of all latents that are kept for the reconstruction error by alignment; the paper
keeps 250 of 1568.
"""

RANDOM_DRAWS = 5
"""Orders of latents drawn at random, for what any latents carry."""

_RANDOM_SEED = 0
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
    kept_mse: Sequence[float]
    """MSE with only the share ``KEPT_SHARES`` of latents of largest |cos(enc, dec)|."""
    without_mse: Sequence[float]
    """MSE with all latents but those."""
    random_mse: Sequence[Sequence[float]]
    """MSE with only as many latents chosen at random, for ``RANDOM_DRAWS`` draws."""


@torch.no_grad()
def evaluate(weights: Weights, pixels: Tensor) -> Evaluation:
    """Return the figures over all ``pixels`` [n, d_in] uint8."""
    cosines = encoder_decoder_cosines(weights.enc, weights.dec)
    d_sae = len(cosines)
    generator = torch.Generator().manual_seed(_RANDOM_SEED)
    orders = [
        cosines.abs().argsort(descending=True, stable=True),
        *(torch.randperm(d_sae, generator=generator) for _ in range(RANDOM_DRAWS)),
    ]
    kept = torch.zeros(len(orders), len(KEPT_SHARES), dtype=torch.float64)
    without = torch.zeros(len(KEPT_SHARES), dtype=torch.float64)
    spread = 0.0
    active = torch.zeros(d_sae, dtype=torch.float64)
    mean = pixels.float().mean(dim=0).div_(255)
    for block in pixels.split(_BATCH):
        x = block.float().div_(255)
        centered = weights.centered(x)
        acts = weights.encode(centered)
        active += (acts > 0).float().sum(dim=0)
        spread += float((x - mean).square().sum(dtype=torch.float64))
        for number, order in enumerate(orders):
            residuals = _residuals(weights, centered, acts, order)
            kept[number] += _squares(residuals)
            if number == 0:
                # all latents less the kept ones
                without += _squares([residuals[-1] + centered - r for r in residuals])
    alive = int(alive_mask(weights.enc, weights.dec).sum())
    aligned, *drawn = (kept / pixels.numel()).tolist()
    return Evaluation(
        mse=aligned[-1],
        variance_explained=1 - float(kept[0, -1]) / spread,
        density=float(active.sum()) / (len(pixels) * d_sae),
        firing=int((active > 0).sum()),
        alive=alive,
        dead=d_sae - alive,
        kept_mse=aligned,
        without_mse=(without / pixels.numel()).tolist(),
        random_mse=drawn,
    )


def _residuals(
    weights: Weights, centered: Tensor, acts: Tensor, order: Tensor
) -> list[Tensor]:
    """Return what the first latents of ``order`` leave, for each share of them."""
    bounds = [0, *(max(1, round(share * len(order))) for share in KEPT_SHARES)]
    left = [centered]
    # each share adds its latents to the ones before: one decoding in all
    for start, end in zip(bounds, bounds[1:]):
        chosen = order[start:end]
        left.append(left[-1] - acts[:, chosen] @ weights.dec[chosen])
    return left[1:]


def _squares(residuals: Sequence[Tensor]) -> Tensor:
    return torch.stack([r.square().sum(dtype=torch.float64) for r in residuals])
