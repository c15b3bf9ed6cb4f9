"""The four scalings of AuxK, row by row and latent by latent."""

from __future__ import annotations

import torch


def reconstruction_by_dead(
    pre: torch.Tensor,
    W_dec: torch.Tensor,
    dead: list[int],
    k_aux: int,
    *,
    rectified: bool,
) -> torch.Tensor:
    """The rows' reconstructions [batch, d_in] from the k_aux largest of the dead latents."""
    rows = []
    for hidden in pre:
        chosen = sorted(dead, key=lambda j: -float(hidden[j].detach()))[:k_aux]
        row = torch.zeros_like(W_dec[0])
        for j in chosen:
            value = hidden[j].clamp(min=0) if rectified else hidden[j]
            row = row + value * W_dec[j]
        rows.append(row)
    return torch.stack(rows)


def total_variance(y: torch.Tensor) -> torch.Tensor:
    """Mean squared distance from the mean, summed over dimensions."""
    mean = y.sum(dim=0) / len(y)
    return sum(((row - mean) ** 2).sum() for row in y) / len(y)  # type: ignore[return-value]


def scaled_auxk(
    scaling: str,
    x: torch.Tensor,
    x_hat: torch.Tensor,
    pre: torch.Tensor,
    W_dec: torch.Tensor,
    dead: list[int],
) -> torch.Tensor:
    """The auxiliary loss; ``pre`` [batch, d_sae] before ReLU."""
    if not dead:
        return x.new_zeros(())
    residual = (x - x_hat).detach()
    k_aux = x.shape[1] // 2
    guess = reconstruction_by_dead(
        pre, W_dec, dead, k_aux, rectified=scaling != "sae_lens"
    )
    error = ((guess - residual) ** 2).sum() / len(x)
    few = min(len(dead) / k_aux, 1)
    if scaling == "sae_lens":
        return few * error
    if scaling == "openai":
        return error / total_variance(x) / 32
    if scaling == "dictionary_learning":
        return error / total_variance(residual) / 32
    assert scaling == "sparsify"
    return few * error / total_variance(x)
