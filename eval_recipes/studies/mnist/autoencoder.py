"""
Loss and gradients of a ReLU autoencoder in closed form.

Most latents fire on few images, some on nearly all. Products with the busy ones are dense
on just their rows; the others' activations are listed as (image, latent) pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eval_recipes.studies.mnist.settings import PIXELS, Setting, Training
from saereg_plugin.kernels.selected import Selected


@dataclass(frozen=True)
class Weights:
    """
    Encoder and decoder with each latent's vector as a row.

    ``x_hat = relu((x - b_dec) @ enc.T + b_enc) @ dec + b_dec``.
    """

    enc: Tensor
    """[d_sae, d_in] encoder vectors (SAELens' ``W_enc`` transposed)."""
    dec: Tensor
    """[d_sae, d_in] decoder vectors (SAELens' ``W_dec``)."""
    b_enc: Tensor | None = None
    """[d_sae] encoder bias, or none."""
    b_dec: Tensor | None = None
    """[d_in] decoder bias, which the encoder's input lacks, or none; not without ``b_enc``."""

    def __post_init__(self) -> None:
        if self.b_dec is not None and self.b_enc is None:
            raise ValueError(
                "a decoder bias needs an encoder bias: pass both, or neither"
            )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters by name, without absent biases."""
        named = {
            "enc": self.enc,
            "dec": self.dec,
            "b_enc": self.b_enc,
            "b_dec": self.b_dec,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def to(self, device: str) -> Weights:
        """Return the weights on a device."""
        return Weights(**{name: each.to(device) for name, each in self.tensors.items()})

    def centered(self, x: Tensor) -> Tensor:
        """Return ``x - b_dec`` [batch, d_in], the encoder's input and the target of ``z @ dec``."""
        return x if self.b_dec is None else x - self.b_dec

    def encode(self, centered: Tensor) -> Tensor:
        """Return the activations [batch, d_sae] of pixels that were ``centered``."""
        if self.b_enc is None:
            return (centered @ self.enc.T).relu_()
        return torch.addmm(self.b_enc, centered, self.enc.T).relu_()


def initial_weights(setting: Setting, training: Training, *, seed: int) -> Weights:
    """
    Draw a run's initial weights, equal to the public notebooks' for each seed.

    Untied: two independent Kaiming uniform draws in ``nn.Linear``'s layout, the encoder
    [d_sae, d_in] first, then the decoder [d_in, d_sae]; ``untied_init`` sets their bound.
    Tied: the decoder drawn in that layout and scaled to vectors of norm 1, the encoder a
    copy, biases zero (``training`` then sets ``b_dec`` from the first batch).
    """
    generator = torch.Generator().manual_seed(seed)
    if setting.tied:
        dec = _uniform(PIXELS, training.d_sae, 0.0, generator).T.contiguous()
        unit_norm_(dec)
        b_dec = None if training.tied_b_dec == "none" else torch.zeros(PIXELS)
        return Weights(dec.clone(), dec, torch.zeros(training.d_sae), b_dec)
    slope = 0.0 if training.untied_init == "kaiming" else math.sqrt(5)
    enc = _uniform(training.d_sae, PIXELS, slope, generator)
    dec = _uniform(PIXELS, training.d_sae, slope, generator)
    return Weights(enc, dec.T.contiguous())


def _uniform(
    rows: int, columns: int, slope: float, generator: torch.Generator
) -> Tensor:
    drawn = torch.empty(rows, columns)
    return nn.init.kaiming_uniform_(drawn, a=slope, generator=generator)


def unit_norm_(rows: Tensor) -> None:
    """Scale every row to norm 1, in place."""
    rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True))


BUSY = 0.06
"""A latent that fires on more than this share of a batch is worth dense products."""

ALL_DENSE = 0.85
"""From this share of busy latents on, sorting them out costs more than it saves on a CPU."""


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
    all_dense: float | None = None,
) -> Step:
    """
    Return the loss's parts and gradients for the batch ``x`` [batch, d_in].

    ``busy`` and ``all_dense`` decide only how the same numbers are computed; by default an
    accelerator computes dense products alone. The gradient of relu at 0 is 0.
    """
    if all_dense is None:
        all_dense = ALL_DENSE if x.device.type == "cpu" else 0.0
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
        density=int(counts.long().sum()) / acts.numel(),
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
