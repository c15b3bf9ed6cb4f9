"""SAELens' parameters: weight matrices, and which part of each belongs to one latent."""

from __future__ import annotations

import torch

_AXES: dict[str, int] = {
    "W_enc": 1,
    "W_dec": 0,
    "b_enc": 0,
    "b_gate": 0,
    "b_mag": 0,
    "r_mag": 0,
    "threshold": 0,
}


WEIGHTS: dict[str, tuple[str, ...]] = {
    "encoder": ("W_enc",),
    "decoder": ("W_dec",),
    "both": ("W_enc", "W_dec"),
}
"""Names of the weight matrices that a ``target`` stands for."""


def latent_axis(name: str) -> int | None:
    """Return the axis of parameter ``name`` that counts latents; None for ``b_dec``."""
    return _AXES.get(name)


def along_latents(values: torch.Tensor, name: str) -> torch.Tensor:
    """Shape one value a latent, [d_sae], to be multiplied with parameter ``name``."""
    return values[:, None] if name == "W_dec" else values
