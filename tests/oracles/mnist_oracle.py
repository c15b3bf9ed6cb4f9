"""A slow second way to train the MNIST study's SAEs: autograd and PyTorch's plain Adam."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear, mse_loss

ACTIVATION_L1 = 0.1

Leaves = list[Tensor]
"""Encoder [d_sae, d_in], decoder [d_sae, d_in] and, if there is one, the encoder's bias."""


def loss(leaves: Leaves, x: Tensor, penalty: str, strength: float) -> Tensor:
    """The objective as the methods' description words it."""
    enc, dec = leaves[:2]
    z = torch.relu(linear(x, enc, leaves[2] if len(leaves) == 3 else None))
    total = mse_loss(linear(z, dec.T), x) + ACTIVATION_L1 * z.abs().mean()
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
    z = torch.relu(linear(x, leaves[0], leaves[2] if len(leaves) == 3 else None))
    mask = torch.zeros(z.shape[1], dtype=z.dtype)
    mask[kept] = 1
    return float(mse_loss((z * mask) @ leaves[1], x))
