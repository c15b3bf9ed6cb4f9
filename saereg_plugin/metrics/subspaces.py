"""Overlap of the subspaces that two sets of latents span."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_ROWS_AT_ONCE = 8192


class LeadingDirections(NamedTuple):
    """Left singular vectors of a decoder block whose columns are decoder vectors."""

    basis: Tensor
    """[d, rank] float64, orthonormal columns, largest singular value first."""
    singular_values: Tensor
    """[rank] float64, falling."""

    @property
    def rank(self) -> int:
        """Dimension of the span."""
        return self.basis.shape[1]


class RandomOverlap(NamedTuple):
    """Overlap of two independent uniformly random subspaces."""

    mean: float
    std: float


def leading_directions(rows: Tensor) -> LeadingDirections:
    """
    Left singular vectors of the block whose columns are ``rows`` [n, d].

    From the d x d matrix of second moments, summed in float64, so that memory does not
    grow with n^2 and the work only with n d^2. Directions whose singular value is below
    d * eps(float32) of the largest are rounding: they do not count into the rank. Among
    equal singular values the order, hence the subspace that ends between them, is
    arbitrary.

    >>> leading_directions(torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])).singular_values.tolist()
    [3.0, 2.0]
    """
    if rows.ndim != 2:
        raise ValueError(f"expected rows [n, d], got shape {[*rows.shape]}")
    d = rows.shape[1]
    moments = torch.zeros(d, d, dtype=torch.float64)
    for part in rows.detach().split(_ROWS_AT_ONCE):
        exact = part.double()
        moments += exact.T @ exact
    squares, vectors = torch.linalg.eigh(moments)
    squares, vectors = squares.flip(0), vectors.flip(1)
    tolerance = (d * torch.finfo(torch.float32).eps) ** 2
    rank = int((squares > tolerance * squares[:1]).sum()) if d else 0
    return LeadingDirections(vectors[:, :rank].contiguous(), squares[:rank].sqrt())


def subspace_overlap(
    a: LeadingDirections, b: LeadingDirections, ranks: Sequence[int]
) -> list[float | None]:
    """
    ||U_r' V_r||_F^2 / r for each r: U_r, V_r the first r directions of A and of B.

    After arXiv 2606.12138, which publishes no thresholds. It is the mean squared cosine of
    the r principal angles: 1 for equal subspaces, 0 for orthogonal ones, r / d for random
    ones. None where r exceeds the rank of either block, which then has no r directions.
    """
    if a.basis.shape[0] != b.basis.shape[0]:
        raise ValueError(
            f"blocks of {a.basis.shape[0]} and {b.basis.shape[0]} dimensions"
        )
    if any(r < 1 for r in ranks):
        raise ValueError(f"expected ranks of at least 1, got {list(ranks)}")
    # The sum over the leading r x r block of squares, for every r at once.
    squares = (a.basis.T @ b.basis).square_()
    inside = squares.cumsum(0).cumsum(1).diagonal()
    return [
        min(1.0, float(inside[r - 1]) / r) if r <= len(inside) else None for r in ranks
    ]


def random_overlap(r: int, d: int) -> RandomOverlap:
    """
    Mean r / d and standard deviation of the overlap of two random r-spaces in d dimensions.

    Var ||U'V||_F^2 = 2 r^2 (d - r)^2 / (d^2 (d - 1) (d + 2)), the second moment of a
    projection turned by a Haar-distributed rotation.

    >>> random_overlap(1, 3)
    RandomOverlap(mean=0.3333333333333333, std=0.29814239699997197)
    """
    if not 1 <= r <= d:
        raise ValueError(f"expected 1 <= r <= d, got r = {r}, d = {d}")
    if r == d:
        return RandomOverlap(1.0, 0.0)
    std = math.sqrt(2 / ((d - 1) * (d + 2))) * (d - r) / d
    return RandomOverlap(r / d, std)


def overlap_ranks(d: int) -> list[int]:
    """
    Ranks 1, 2, 4, ... below d / 2, and d // 2: beyond it random overlap leaves little room.

    >>> overlap_ranks(576)
    [1, 2, 4, 8, 16, 32, 64, 128, 256, 288]
    """
    half = max(1, d // 2)
    return [*(1 << i for i in range(half.bit_length()) if 1 << i < half), half]
