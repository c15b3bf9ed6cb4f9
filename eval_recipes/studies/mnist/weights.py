"""The parameters of one SAE on MNIST, and where they start."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eval_recipes.studies.mnist.settings import PIXELS, Setting, Training


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
        """The parameters that there are, by name."""
        named = {
            "enc": self.enc,
            "dec": self.dec,
            "b_enc": self.b_enc,
            "b_dec": self.b_dec,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def centered(self, x: Tensor) -> Tensor:
        """Return ``x - b_dec`` [batch, d_in]: what is encoded, and what ``z @ dec`` is to be."""
        return x if self.b_dec is None else x - self.b_dec

    def encode(self, centered: Tensor) -> Tensor:
        """Return the activations [batch, d_sae] of pixels that were ``centered``."""
        if self.b_enc is None:
            return (centered @ self.enc.T).relu_()
        return torch.addmm(self.b_enc, centered, self.enc.T).relu_()


def initial_weights(setting: Setting, training: Training, *, seed: int) -> Weights:
    """
    Draw the weights a run starts from: those of the public notebooks, seed by seed.

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
