"""Assignment problems of every kind that gives a solver trouble."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saereg_plugin.metrics import Certificate, certify
from saereg_plugin.metrics.assignment.solve import Assignment
from saereg_plugin.metrics.assignment.weights import Weights

KINDS = ("random", "ties", "duplicates", "zeros", "plane", "planted")
ROUNDING = 1e-6
"""Error of one float32 cosine at the dimensions used here, generously."""


def problem(kind: str, n_a: int, n_b: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    d = 2 if kind == "plane" else d
    a = torch.randn(n_a, d, generator=generator)
    b = torch.randn(n_b, d, generator=generator)
    if kind == "ties":
        a, b = a.sign(), b.sign()
    if kind == "duplicates":
        a[: n_a // 2], b[: n_b // 2] = a[0].clone(), b[0].clone()
    if kind == "zeros":
        a[: n_a // 3], b[n_b // 2 :] = 0, 0
    if kind == "planted":
        same = min(n_a, n_b) // 2
        b[:same] = a[:same] + 0.1 * b[:same]
    return (
        a[torch.randperm(n_a, generator=generator)],
        b[torch.randperm(n_b, generator=generator)],
    )


def whole(weights: Weights) -> NDArray[np.int64]:
    return np.concatenate([block.copy() for _, block in weights.blocks()]).astype(
        np.int64
    )


def certified(
    a: Tensor, b: Tensor, found: Assignment, *, absolute: bool
) -> Certificate:
    return certify(
        a,
        b,
        torch.from_numpy(found.partner).long(),
        torch.from_numpy(found.prices),
        absolute=absolute,
    )
