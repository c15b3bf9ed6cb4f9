"""Multi-TopK by the plain formula: two reconstructions, row by row."""

from __future__ import annotations

from typing import Any

import torch


def reconstruct(sae: Any, x: torch.Tensor, m: int) -> torch.Tensor:
    """Return the reconstruction of one row [d_in] by the m largest pre-activations."""
    center = sae.b_dec if sae.cfg.apply_b_dec_to_input else 0
    hidden = (x - center) @ sae.W_enc + sae.b_enc
    norms = sae.W_dec.norm(dim=-1)
    ranked = hidden * norms if sae.cfg.rescale_acts_by_decoder_norm else hidden
    ranked = ranked.detach()
    found = sae.b_dec
    for latent in sorted(range(len(hidden)), key=lambda j: -float(ranked[j]))[:m]:
        found = found + hidden[latent].clamp(min=0) * sae.W_dec[latent]
    return found


def multi_topk_loss(
    sae: Any, batch: torch.Tensor, *, k: int, multiple: int, weight: float
) -> torch.Tensor:
    """Return ``L(k) + weight L(multiple k)`` of a batch [n, d_in]."""
    most = min(multiple * k, int(sae.W_enc.shape[1]))
    total = batch.new_zeros(())
    for x in batch:
        for m, share in ((k, 1.0), (most, weight)):
            total = total + share * (reconstruct(sae, x, m) - x).square().sum()
    return total / len(batch)
