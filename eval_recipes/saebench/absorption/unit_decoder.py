"""SAEs whose decoder norms SAELens does not fold: the same function with rows of norm one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor, nn
from typing_extensions import override

# Float32 rows that were divided by their norms are off by some 1e-7.
_TOLERANCE = 1e-4


def norm_deviation(sae: SAE[Any]) -> float:
    """Return the largest distance from 1 of a decoder row's norm; zero rows do not count."""
    norms = sae.W_dec.detach().double().norm(dim=-1)
    distances = (norms[norms > 0] - 1).abs()
    return float(distances.max()) if len(distances) else 0.0


def is_unit(sae: SAE[Any]) -> bool:
    """Return whether the decoder's rows have norm 1, up to rounding."""
    return norm_deviation(sae) < _TOLERANCE


class UnitDecoder(nn.Module):
    """
    An SAE's own choice of latents, times the norms of their rows, over rows of norm 1.

    ``fold_W_dec_norm`` moves the norms into the encoder, before latents are chosen. SAELens
    refuses that where the choice depends on the encoder's scale: in a TopK SAE without
    ``rescale_acts_by_decoder_norm`` (the default of older configurations) and in matching
    pursuit. Here the norms are applied after the choice, so that every latent's share of
    the reconstruction is what it was: ``encode(x) * norms`` on ``W_dec / norms``.

    It has what the absorption eval reads of an SAE, and shares nothing with ``sae``.
    """

    def __init__(self, sae: SAE[Any]) -> None:
        super().__init__()
        self.base = copy.deepcopy(sae)
        self.cfg = self.base.cfg
        norms = self.base.get_W_dec_norm().detach()
        self.norms = nn.Parameter(norms, requires_grad=False)
        rows = self.base.W_dec.detach() / norms[:, None]
        self.W_dec = nn.Parameter(rows, requires_grad=False)

    @property
    def W_enc(self) -> Tensor:
        """Encoder, [d_in, d_sae], for its directions."""
        return self.base.W_enc

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.W_dec.dtype

    def encode(self, x: Tensor) -> Tensor:
        """Return the latents, [..., d_sae], in units of the reconstruction."""
        return self.base.encode(x) * self.norms

    def _setup_activation_normalization(self) -> None:
        """Bind the run-time normalisation of a copy to the copy, as an SAE does."""
        self.base._setup_activation_normalization()

    def fold_W_dec_norm(self) -> None:
        """Do nothing: it is folded."""

    @override
    def to(self, *args: Any, **kwargs: Any) -> UnitDecoder:
        """Move and cast; an SAE keeps its data type beside its weights."""
        self.base.to(*args, **kwargs)
        return super().to(*args, **kwargs)
