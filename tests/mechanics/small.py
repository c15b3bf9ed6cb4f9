"""Small SAEs on synthetic activations, and a training loop that hides nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.training import (
    ARCHITECTURES,
    TOPK_ARCHITECTURES,
    forward,
    make_sae,
    make_stock_sae,
)

D_IN = 12
D_SAE = 24
ROWS = 16

SMALL: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE}
_OWN: dict[str, dict[str, Any]] = {
    "standard": {"l1_coefficient": 0.1},
    "topk": {"k": 4},
    "batchtopk": {"k": 4},
    "matryoshka_batchtopk": {"k": 4, "matryoshka_widths": [6, D_SAE]},
    "jumprelu": {"l0_coefficient": 0.05},
    "gated": {"l1_coefficient": 0.1},
}
STEPS = [
    *((architecture, {}) for architecture in ARCHITECTURES),
    *((architecture, {"sparse_step": "always"}) for architecture in TOPK_ARCHITECTURES),
]
"""Every architecture with a dense step, and those that have a sparse one with it."""


def small_sae(architecture: str = "topk", **fields: Any) -> Any:
    """A regularised SAE of 24 latents on 12 dimensions."""
    return make_sae(architecture, **{**SMALL, **_OWN[architecture], **fields})


def small_stock(architecture: str = "topk", **fields: Any) -> Any:
    """SAELens' own with the same weights."""
    return make_stock_sae(architecture, **{**SMALL, **_OWN[architecture], **fields})


def data(n_batches: int, rows: int = ROWS, seed: int = 0) -> list[torch.Tensor]:
    """Batches of activations with a mean and a few strong directions."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(30, D_IN, generator=generator)
    x = torch.rand(n_batches * rows, 30, generator=generator) ** 4 @ basis
    return list((3 * x + 0.5).split(rows))


def backward(sae: Any, batch: torch.Tensor, dead: torch.Tensor | None = None) -> Any:
    """One forward and backward pass; the output."""
    output = forward(sae, batch, dead)
    output.loss.backward()
    return output


def train(
    sae: Any,
    batches: list[torch.Tensor],
    optimizer: torch.optim.Optimizer | None = None,
    *,
    max_norm: float = 1.0,
    lrs: list[float] | None = None,
    each: Callable[[Any], None] | None = None,
) -> torch.optim.Optimizer:
    """SAELens' step in plain code, with a choice of optimiser, clipping and learning rates."""
    optimizer = optimizer or torch.optim.Adam(sae.parameters(), lr=1e-2)
    for number, batch in enumerate(batches):
        if lrs is not None:
            optimizer.param_groups[0]["lr"] = lrs[number]
        output = backward(sae, batch)
        torch.nn.utils.clip_grad_norm_(sae.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad()
        if each is not None:
            each(output)
    return optimizer
