"""A random dictionary: what sparse probing gives without any training of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

SAMPLE_TEXTS = 8
"""Train texts a class from which an SAE's L0 is taken."""


@torch.no_grad()
def mean_l0(sae: SAE[Any], activations: Mapping[str, Tensor]) -> int:
    """
    Return an SAE's mean number of active latents on a token, rounded, at least 1.

    Args:
        activations: by class (texts, tokens, d_in), 0 at special tokens.
    """
    active = tokens = 0
    for texts in activations.values():
        x = texts[:SAMPLE_TEXTS].to(device=sae.device, dtype=sae.dtype)
        kept = x.sum(-1) != 0
        active += int((sae.encode(x)[kept] != 0).sum())
        tokens += int(kept.sum())
    return max(1, round(active / max(1, tokens)))


def random_directions(d_in: int, d_sae: int, seed: int) -> Tensor:
    """Return unit columns in uniformly random directions, shape (d_in, d_sae)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(
        torch.randn(d_in, d_sae, generator=generator), dim=0
    )


@torch.no_grad()
def random_features(
    activations: Mapping[str, Tensor],
    directions: Tensor,
    centre: Tensor,
    l0: int,
    *,
    batch_size: int,
) -> dict[str, Tensor]:
    """
    Return mean activations of a random TopK dictionary by text, shape (texts, d_sae).

    Of a token's activation ``x``, the ``l0`` largest entries of ``ReLU((x - centre) R)``
    are kept; the mean over the text's tokens leaves out special ones, as upstream's
    ``get_sae_meaned_activations`` does.

    Args:
        activations: by class (texts, tokens, d_in), 0 at special tokens.
        directions: R, shape (d_in, d_sae).
        centre: shape (d_in,).
        l0: latents a token.
        batch_size: texts encoded at a time.
    """
    return {
        name: torch.cat(
            [
                _encode(batch.float(), directions, centre, l0)
                for batch in texts.split(batch_size)
            ]
        )
        for name, texts in activations.items()
    }


def _encode(x: Tensor, directions: Tensor, centre: Tensor, l0: int) -> Tensor:
    kept = x.sum(-1) != 0
    latents = ((x - centre) @ directions).relu_()
    least = latents.topk(l0, dim=-1).values[..., -1:]
    latents *= (latents >= least) & kept[..., None]
    return latents.sum(1) / kept.sum(1, keepdim=True)
