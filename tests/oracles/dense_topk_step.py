"""
The parts of a TopK training step in plain dense tensors, differentiated by autograd.

Every activation has its place in a [batch, d_sae] matrix; nothing here comes from the
package under test.
"""

from __future__ import annotations

import torch


def pre_activations(
    x: torch.Tensor,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    b_dec: torch.Tensor | None,
) -> torch.Tensor:
    """``(x - b_dec) @ W_enc + b_enc``, [batch, d_sae]."""
    return (x if b_dec is None else x - b_dec) @ W_enc + b_enc


def nested_reconstructions(
    z: torch.Tensor, W_dec: torch.Tensor, b_dec: torch.Tensor, widths: tuple[int, ...]
) -> torch.Tensor:
    """The reconstruction from the first latents only, for each width: [levels, batch, d_in]."""
    return torch.stack([z[:, :width] @ W_dec[:width] + b_dec for width in widths])


def aux_k_loss(
    pre: torch.Tensor,
    W_dec: torch.Tensor,
    residual: torch.Tensor,
    dead: torch.Tensor,
    k: int,
    norms: torch.Tensor | None,
) -> torch.Tensor:
    """AuxK without its scale, ``dead`` a mask [d_sae]: as SAELens, -inf hides the living."""
    ranked = pre if norms is None else pre * norms
    columns = ranked.masked_fill(~dead, -torch.inf).topk(k, dim=-1).indices
    z = torch.zeros_like(pre).scatter(1, columns, pre.gather(1, columns))
    return (z @ W_dec - residual).square().sum(dim=-1).mean()
