"""The parameters of one SAE on MNIST, and where they start."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eval_recipes.studies.mnist.settings import Setting, Training

PIXELS = 784


@dataclass(frozen=True)
class Weights:
    """
    Encoder and decoder with each latent's vector as a row; reconstructions have no bias.

    ``x_hat = relu(x @ enc.T + bias) @ dec``.
    """

    enc: Tensor
    """[d_sae, d_in] encoder vectors (SAELens' ``W_enc`` transposed)."""
    dec: Tensor
    """[d_sae, d_in] decoder vectors (SAELens' ``W_dec``)."""
    bias: Tensor | None
    """[d_sae] encoder bias, or none."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The parameters that there are, by name."""
        named = {"enc": self.enc, "dec": self.dec, "bias": self.bias}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def encode(self, x: Tensor) -> Tensor:
        """Return the activations [batch, d_sae] of pixels ``x`` [batch, d_in]."""
        if self.bias is None:
            return (x @ self.enc.T).relu_()
        return torch.addmm(self.bias, x, self.enc.T).relu_()


def initial_weights(setting: Setting, training: Training, *, seed: int) -> Weights:
    """
    Draw the weights a run starts from, as ``saereg_plugin.mechanics`` draws an SAELens SAE's.

    Untied: two independent Kaiming uniform draws in ``nn.Linear``'s layout, the encoder
    [d_sae, d_in] first, then the decoder [d_in, d_sae]; ``untied_init`` sets their bound.
    Tied: the decoder's rows drawn uniformly and scaled to norm 1, the encoder a copy, the
    bias zero.
    """
    generator = torch.Generator().manual_seed(seed)
    slope = 0.0 if training.untied_init == "kaiming" else math.sqrt(5)
    enc = torch.empty(training.d_sae, PIXELS)
    nn.init.kaiming_uniform_(enc, a=slope, generator=generator)
    if setting.tied:
        unit_norm_(enc)
        return Weights(enc, enc.clone(), torch.zeros(training.d_sae))
    dec = torch.empty(PIXELS, training.d_sae)
    nn.init.kaiming_uniform_(dec, a=slope, generator=generator)
    return Weights(enc, dec.T.contiguous(), None)


def unit_norm_(rows: Tensor) -> None:
    """Scale every row to norm 1, in place."""
    rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True))
