"""Small SAEs, and activations with a known sparse structure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tests.training import make_sae, make_stock_sae

D_IN = 16
D_SAE = 48
CONTEXT = 8
N_FEATURES = 32

_FIELDS: dict[str, dict[str, Any]] = {
    "standard": {"l1_coefficient": 0.0},
    "topk": {"k": 4},
    "batchtopk": {"k": 4},
    "matryoshka_batchtopk": {"k": 4, "matryoshka_widths": [12, D_SAE]},
    "jumprelu": {"jumprelu_init_threshold": 0.05},
    "gated": {},
}


def small_fields(architecture: str, **fields: Any) -> dict[str, Any]:
    return {"d_in": D_IN, "d_sae": D_SAE, **_FIELDS[architecture], **fields}


def small_sae(architecture: str = "topk", **fields: Any) -> Any:
    """A regularised SAE of 48 latents; dense steps unless ``sparse_step`` says otherwise."""
    return _opened(make_sae(architecture, **small_fields(architecture, **fields)))


def small_stock_sae(architecture: str = "topk", **fields: Any) -> Any:
    """SAELens' own SAE with the same weights."""
    return _opened(make_stock_sae(architecture, **small_fields(architecture, **fields)))


def sparse_data(n: int, seed: int = 0, rare: float = 0.02) -> torch.Tensor:
    """
    Rows [n, D_IN], each a sum of a few of 32 directions.

    Direction j is present with a probability that falls from .25 to ``rare``.
    """
    generator = torch.Generator().manual_seed(seed)
    chances = torch.linspace(0.25, rare, N_FEATURES)
    present = torch.rand(n, N_FEATURES, generator=generator) < chances
    strength = 0.5 + torch.rand(n, N_FEATURES, generator=generator)
    return (present * strength) @ _directions()


def token_data(n_contexts: int, seed: int = 0) -> torch.Tensor:
    """
    Contexts of CONTEXT tokens, [n_contexts * CONTEXT, D_IN], each beginning with BOS.

    A context has a slow part (two directions present throughout) and a fast part (one
    direction for each token alone).
    """
    generator = torch.Generator().manual_seed(seed)
    directions = _directions()
    slow = torch.randint(0, 8, (n_contexts, 1, 2), generator=generator)
    fast = torch.randint(8, N_FEATURES, (n_contexts, CONTEXT), generator=generator)
    noise = 0.05 * torch.randn(n_contexts, CONTEXT, D_IN, generator=generator)
    rows = directions[slow].sum(dim=-2) + 0.7 * directions[fast] + noise
    rows[:, 0] = 5 * torch.ones(D_IN)
    return rows.reshape(-1, D_IN)


def in_batches(rows: torch.Tensor, size: int, start: int = 0) -> Iterator[torch.Tensor]:
    """Endless batches of ``size`` rows in order, from batch ``start`` on."""
    parts = rows.split(size)
    while True:
        yield from parts[start:]
        start = 0


def explained(sae: Any, rows: torch.Tensor) -> float:
    """R^2 of the reconstruction."""
    with torch.no_grad():
        error = (sae(rows) - rows).square().sum()
    return float(1 - error / (rows - rows.mean(dim=0)).square().sum())


def _opened(sae: Any) -> Any:
    """A gated SAE starts with its gate open wherever its magnitude is positive; not this one."""
    if hasattr(sae, "b_gate"):
        with torch.no_grad():
            sae.b_gate -= 0.05
    return sae


def _directions() -> torch.Tensor:
    generator = torch.Generator().manual_seed(99)
    drawn = torch.randn(N_FEATURES, D_IN, generator=generator)
    return drawn / drawn.norm(dim=-1, keepdim=True)
