"""The four public scalings of the auxiliary loss of dead latents, by name."""

from __future__ import annotations

from typing import Literal

import torch

AuxKScaling = Literal["sae_lens", "openai", "dictionary_learning", "sparsify"]

_WEIGHT = 1 / 32
"""alpha of arXiv 2406.04093, appendix A.2."""


def rectifies(scaling: AuxKScaling) -> bool:
    """Whether dead latents answer with ``relu`` of their pre-activations; SAELens' do not."""
    return scaling != "sae_lens"


def auxk_scale(
    scaling: AuxKScaling,
    *,
    n_dead: int,
    k_aux: int,
    x: torch.Tensor,
    residual: torch.Tensor,
) -> torch.Tensor | float:
    """
    Return what the mean squared error of the residual's reconstruction is multiplied with.

    With ``e = x - x_hat`` the residual, ``e_hat`` its reconstruction by the k_aux dead latents
    of the largest pre-activations, ``A = mean_i ||e_hat_i - e_i||^2`` and
    ``var(y) = mean_i ||y_i - mean(y)||^2`` over the batch, the loss is

    - ``sae_lens``: ``min(n_dead / k_aux, 1) A``;
    - ``openai``: ``A / (32 var(x))``, arXiv 2406.04093: squared errors are normalised by that
      of predicting the mean activation;
    - ``dictionary_learning``: ``A / (32 var(e))``, as OpenAI's training script has it, too;
    - ``sparsify``: ``min(n_dead / k_aux, 1) A / var(x)``.

    The variances are constants: no gradient runs through them. Where one is 0 (a batch of
    one row) the loss is 0.

    Args:
        scaling: whose.
        n_dead: number of dead latents.
        k_aux: how many may answer, d_in / 2; not lowered to ``n_dead``.
        x: [batch, d_in].
        residual: [batch, d_in].
    """
    share = min(n_dead / k_aux, 1.0)
    if scaling == "sae_lens":
        return share
    if scaling == "sparsify":
        return share * _inverse_variance(x)
    return _WEIGHT * _inverse_variance(x if scaling == "openai" else residual)


@torch.no_grad()
def _inverse_variance(y: torch.Tensor) -> torch.Tensor:
    wide = y.to(torch.promote_types(y.dtype, torch.float32))
    variance = (wide - wide.mean(dim=0)).square().sum(dim=-1).mean()
    return torch.where(variance > 0, variance.reciprocal(), torch.zeros_like(variance))
