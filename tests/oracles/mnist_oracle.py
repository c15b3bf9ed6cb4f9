"""A slow second way to train the MNIST study's SAEs: autograd and PyTorch's plain Adam."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import linear, mse_loss

ACTIVATION_L1 = 0.1

Leaves = list[Tensor]
"""Encoder [d_sae, d_in], decoder [d_sae, d_in] and, if there are any, b_enc and b_dec."""


def linear_start(d_sae: int, d_in: int, seed: int, *, tied: bool) -> list[Tensor]:
    """Encoder and decoder weights as two ``nn.Linear`` layers are initialised by the notebooks."""
    generator = torch.Generator().manual_seed(seed)
    encoder = torch.nn.Linear(d_in, d_sae, bias=False)
    decoder = torch.nn.Linear(d_sae, d_in, bias=False)
    if not tied:
        torch.nn.init.kaiming_uniform_(encoder.weight, a=0.0, generator=generator)
    torch.nn.init.kaiming_uniform_(decoder.weight, a=0.0, generator=generator)
    dec = decoder.weight.detach()
    if tied:
        dec = dec / dec.norm(dim=0, keepdim=True)
    return [dec.T if tied else encoder.weight.detach(), dec.T]


def encode_decode(leaves: Leaves, x: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstructions and latents, as a module with ``nn.Linear`` layers has them."""
    enc, dec = leaves[:2]
    b_enc = leaves[2] if len(leaves) > 2 else torch.zeros(len(enc), dtype=x.dtype)
    b_dec = leaves[3] if len(leaves) > 3 else torch.zeros(x.shape[1], dtype=x.dtype)
    z = torch.relu(linear(x - b_dec, enc, b_enc))
    return linear(z, dec.T) + b_dec, z


def loss(leaves: Leaves, x: Tensor, penalty: str, strength: float) -> Tensor:
    """The objective as the methods' description words it."""
    enc, dec = leaves[:2]
    x_hat, z = encode_decode(leaves, x)
    total = mse_loss(x_hat, x) + ACTIVATION_L1 * z.abs().mean()
    if penalty == "l1":
        return total + strength * (dec.abs().mean() + enc.abs().mean())
    if penalty == "l2":
        return total + strength * ((dec**2).sum() + (enc**2).sum())
    if penalty == "frobenius":
        return total + strength * (torch.norm(dec) + torch.norm(enc))
    assert penalty == "none"
    return total


def gradients(leaves: Leaves, x: Tensor, penalty: str, strength: float) -> Leaves:
    """The loss's gradients by autograd."""
    copies = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    return list(torch.autograd.grad(loss(copies, x, penalty, strength), copies))


def train(
    leaves: Leaves,
    batches: Sequence[Tensor],
    penalty: str,
    strength: float,
    *,
    unit_norm: bool,
) -> Leaves:
    """Adam at 1e-3 over the batches; returns the final weights."""
    copies = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    adam = torch.optim.Adam(copies, lr=1e-3, foreach=False, fused=False)
    for x in batches:
        adam.zero_grad()
        loss(copies, x, penalty, strength).backward()
        adam.step()
        if unit_norm:
            with torch.no_grad():
                copies[1] /= copies[1].norm(dim=1, keepdim=True)
    return [copy.detach() for copy in copies]


def kept_error(leaves: Leaves, x: Tensor, kept: Tensor) -> float:
    """Mean squared error with every latent outside ``kept`` [n] set to zero."""
    _, z = encode_decode(leaves, x)
    mask = torch.zeros(z.shape[1], dtype=z.dtype)
    mask[kept] = 1
    b_dec = leaves[3] if len(leaves) > 3 else torch.zeros(x.shape[1], dtype=x.dtype)
    return float(mse_loss((z * mask) @ leaves[1] + b_dec, x))


def median(points: Tensor) -> Tensor:
    """Geometric median: where the mean distance is least, by descent on it."""
    found = points.mean(dim=0).numpy()

    def distance(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        guess = torch.tensor(at, requires_grad=True)
        total = (points - guess).norm(dim=1).mean()
        (gradient,) = torch.autograd.grad(total, guess)
        return total.item(), gradient.numpy()

    least = minimize(distance, found, jac=True, tol=1e-12)
    return torch.from_numpy(least.x)
