"""
Loss and gradients of a ReLU autoencoder in closed form, touching little but active latents.

Most latents fire on few images, some on nearly all. Products with the busy ones are dense
on just their rows; the others' activations are listed as (image, latent) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eval_recipes.studies.mnist.weights import Weights
from saereg_plugin.kernels.selected import Selected

BUSY = 0.06
"""A latent that fires on more than this share of a batch is worth dense products."""

ALL_DENSE = 0.85
"""From this share of busy latents on, sorting them out costs more than it saves."""


@dataclass(frozen=True)
class Step:
    """Figures of one batch and the gradients of ``mse + activation_l1 * mean(z)``."""

    mse: float
    """Mean over elements."""
    mean_activation: float
    """Mean over samples and latents."""
    density: float
    """Share of activations that are not zero."""
    grads: Weights


def step_gradients(
    weights: Weights,
    x: Tensor,
    *,
    activation_l1: float,
    busy: float = BUSY,
    all_dense: float = ALL_DENSE,
) -> Step:
    """
    Return the loss's parts and gradients for the batch ``x`` [batch, d_in].

    ``busy`` and ``all_dense`` decide only how the same numbers are computed. The gradient
    of relu at 0 is 0.
    """
    x = weights.centered(x)
    acts = weights.encode(x)
    fires = acts > 0
    counts = fires.float().sum(dim=0)  # exact, and much faster than a sum of bools
    chosen = counts > busy * len(x)
    whole = float(chosen.float().mean()) >= all_dense
    parts = _Dense(acts) if whole else _Split(acts, fires, chosen)
    residual = parts.decode(weights.dec).sub_(x)
    flat = residual.reshape(-1)
    mse = float(flat @ flat) / len(flat)
    residual.mul_(2 / len(flat))
    enc, dec, b_enc = parts.backward(weights, x, residual, activation_l1 / acts.numel())
    b_dec = None
    if weights.b_dec is not None and b_enc is not None:
        # through the reconstruction, and through what the encoder reads
        b_dec = residual.sum(dim=0).sub_(b_enc @ weights.enc)
    return Step(
        mse=mse,
        mean_activation=float(acts.mean()),
        density=float(counts.sum(dtype=torch.float64)) / acts.numel(),
        grads=Weights(enc, dec, b_enc, b_dec),
    )


class _Dense:
    """All latents at once."""

    def __init__(self, acts: Tensor):
        self.acts = acts

    def decode(self, dec: Tensor) -> Tensor:
        return self.acts @ dec

    def backward(
        self, weights: Weights, x: Tensor, grad: Tensor, l1: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the gradients of encoder, decoder and bias, given that of ``x_hat``."""
        pre = (grad @ weights.dec.T).add_(l1)
        pre = torch.ops.aten.threshold_backward(pre, self.acts, 0)
        b_enc = None if weights.b_enc is None else pre.sum(dim=0)
        return pre.T @ x, self.acts.T @ grad, b_enc


class _Split:
    """Busy latents in dense products, the rest as pairs."""

    def __init__(self, acts: Tensor, fires: Tensor, chosen: Tensor):
        batch, d_sae = acts.shape
        self.index = chosen.nonzero().squeeze(1)
        self.dense = _Dense(acts.index_select(1, self.index))
        # positions in the flattened matrix: one search gives rows, latents and values
        rare = fires.logical_and_(~chosen).view(-1).nonzero().squeeze(1)
        starts = torch.arange(0, (batch + 1) * d_sae, d_sae)
        self.pairs = Selected(rare % d_sae, torch.searchsorted(rare, starts), d_sae)
        self.values = acts.view(-1)[rare]

    def decode(self, dec: Tensor) -> Tensor:
        sparse = self.pairs.weighted_rows(self.values, dec)
        return sparse.addmm_(self.dense.acts, dec.index_select(0, self.index))

    def backward(
        self, weights: Weights, x: Tensor, grad: Tensor, l1: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the gradients of encoder, decoder and bias, given that of ``x_hat``."""
        busy = Weights(
            weights.enc,
            weights.dec.index_select(0, self.index),
            weights.b_enc,
        )
        enc, dec, b_enc = self.dense.backward(busy, x, grad, l1)
        pre = self.pairs.dots(grad, weights.dec).add_(l1)
        whole_enc = self.pairs.weighted_latents(pre, x).index_copy_(0, self.index, enc)
        whole_dec = self.pairs.weighted_latents(self.values, grad)
        whole_dec.index_copy_(0, self.index, dec)
        if b_enc is None:
            return whole_enc, whole_dec, None
        sums = self.pairs.latent_sums(pre).index_copy_(0, self.index, b_enc)
        return whole_enc, whole_dec, sums
