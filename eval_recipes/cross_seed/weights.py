"""The vectors of one SAE as the evaluation compares them, prepared once for all pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from saereg_plugin.metrics import encoder_decoder_cosines, row_norms, unit_rows


@dataclass(frozen=True)
class Weights:
    """Directions of one SAE's vectors, and what their lengths said."""

    enc: Tensor
    """[d_sae, d_in] encoder vectors as unit rows, float32."""
    dec: Tensor
    """[d_sae, d_in] decoder vectors as unit rows, float32."""
    decoder_norms: Tensor
    """[d_sae] norms of the decoder vectors, in the units of the weights."""
    cosines: Tensor
    """[d_sae] cosine of each latent's encoder and decoder vector."""
    alive: Tensor
    """[d_sae] bool: the cosine exceeds the alive threshold."""

    @classmethod
    def of(cls, W_enc: Tensor, W_dec: Tensor, *, alive_threshold: float) -> Weights:
        """Take SAELens' ``W_enc`` [d_in, d_sae] and ``W_dec`` [d_sae, d_in]."""
        rows = W_dec.detach().cpu().float()
        enc, dec = unit_rows(W_enc.detach().cpu().T), unit_rows(rows)
        cosines = encoder_decoder_cosines(enc, dec)
        return cls(
            enc.contiguous(), dec, row_norms(rows), cosines, cosines > alive_threshold
        )

    @cached_property
    def alive_ids(self) -> Tensor:
        """Ids of the alive latents."""
        return self.alive.nonzero().flatten()
