"""Overlap of the subspaces that two sets of latents span."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from saereg_plugin.metrics.similarity import unit_rows

_ROWS_AT_ONCE = 8192
# Values held at once: 2^24 float64 are 128 MiB.
_COSINES_AT_ONCE = 1 << 24


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
    arbitrary. Fewer rows than dimensions are decomposed by the n x n matrix of their
    products.

    >>> leading_directions(torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])).singular_values.tolist()
    [3.0, 2.0]
    """
    if rows.ndim != 2:
        raise ValueError(f"expected rows [n, d], got shape {[*rows.shape]}")
    d = rows.shape[1]
    if 0 < len(rows) < d:
        return _of_few(rows.detach().double())
    moments = torch.zeros(d, d, dtype=torch.float64)
    for part in rows.detach().split(_ROWS_AT_ONCE):
        exact = part.double()
        moments += exact.T @ exact
    return principal_directions(moments)


def principal_directions(moments: Tensor) -> LeadingDirections:
    """
    Eigenvectors of second moments or a covariance [d, d]; the root of eigenvalues with them.

    >>> principal_directions(torch.tensor([[4.0, 0.0], [0.0, 9.0]])).singular_values.tolist()
    [3.0, 2.0]
    """
    squares, vectors = torch.linalg.eigh(moments.double())
    squares, vectors = squares.flip(0), vectors.flip(1)
    rank = _rank(squares, len(moments))
    return LeadingDirections(vectors[:, :rank].contiguous(), squares[:rank].sqrt())


def _of_few(rows: Tensor) -> LeadingDirections:
    """Decompose fewer rows than dimensions, float64 [n, d]."""
    squares, vectors = torch.linalg.eigh(rows @ rows.T)
    squares, vectors = squares.flip(0), vectors.flip(1)
    rank = _rank(squares, rows.shape[1])
    values = squares[:rank].sqrt()
    basis = rows.T @ (vectors[:, :rank] / values)
    # rounding of a small singular value leaves its direction less exact than the others
    return LeadingDirections(torch.linalg.qr(basis)[0].contiguous(), values)


def _rank(squares: Tensor, d: int) -> int:
    """Number of squared singular values, largest first, that are no rounding."""
    tolerance = (d * torch.finfo(torch.float32).eps) ** 2
    return int((squares > tolerance * squares[:1]).sum()) if d else 0


def gaussian_rows(
    principal: LeadingDirections, n: int, generator: torch.Generator
) -> Tensor:
    """
    Draw ``n`` unit rows whose directions are those of N(0, Sigma), float32 [n, d].

    ``principal`` holds the principal directions of the covariance Sigma.
    """
    drawn = torch.randn(n, principal.rank, generator=generator, dtype=torch.float64)
    rows = (drawn * principal.singular_values) @ principal.basis.T
    return unit_rows(rows.float())


def mixed_rows(
    leading: LeadingDirections, n: int, generator: torch.Generator
) -> Tensor:
    """
    Draw the unit rows of Q D, Q a random orthogonal matrix, float32 [n, d].

    ``leading`` holds the directions of D, ``n`` rows. So the mixtures are rows of N(0, D^T D / n)
    whose own second moments, before they have norm 1, are exactly D^T D: they crowd where the
    rows of D do, and each is a mixture of all of them. Independent rows would crowd more, as
    their moments scatter about those of D.
    """
    basis, values = leading
    shape = n, len(basis)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64) @ basis
    # the nearest orthonormal columns: they depend on no order or sign of the rows of D
    squares, vectors = torch.linalg.eigh(drawn.T @ drawn)
    frame = drawn @ (vectors * squares.rsqrt()) @ vectors.T
    return unit_rows(((frame * values) @ basis.T).float())


def nearest_rows(rows: Tensor, others: Tensor, m: int) -> Tensor:
    """
    Ids of the ``m`` of ``others`` with the largest |cosine| to each row, nearest first.

    Both are unit rows, [n, d] and [n_others, d]; int64 [n, m].

    >>> nearest_rows(torch.eye(2), torch.tensor([[0.0, -1.0], [1.0, 0.0]]), 1).tolist()
    [[1], [0]]
    """
    if not 1 <= m <= len(others):
        raise ValueError(f"expected 1 <= m <= {len(others)} rows, got m = {m}")
    step = max(1, _COSINES_AT_ONCE // len(others))
    found = [(part @ others.T).abs().topk(m, 1).indices for part in rows.split(step)]
    return torch.cat(found) if found else torch.empty(0, m, dtype=torch.int64)


def span_shares(
    rows: Tensor, others: Tensor, ids: Tensor, sizes: Sequence[int]
) -> Tensor:
    """
    Share of each row's squared norm in the span of its first m chosen rows, for each m.

    ``rows`` [n, d] are projected on the span of ``others[ids[:, :m]]``, ids int64 [n, >= m].
    A row of zeros has no share (NaN). Chosen rows that depend on each other count once.

    Returns:
        float64 [n, number of sizes].

    >>> rows, others = torch.tensor([[3.0, 4.0]]), torch.eye(2)
    >>> shares = span_shares(rows, others, torch.tensor([[1, 0]]), [1, 2])
    >>> shares.round(decimals=6).tolist()
    [[0.64, 1.0]]
    """
    if any(not 1 <= m <= ids.shape[1] for m in sizes):
        raise ValueError(f"expected sizes in 1 ... {ids.shape[1]}, got {list(sizes)}")
    step = max(1, _COSINES_AT_ONCE // max(1, ids.shape[1] * rows.shape[1]))
    parts = [
        _span_shares(own.double(), others[chosen].double(), sizes)
        for own, chosen in zip(rows.split(step), ids.split(step), strict=True)
    ]
    return torch.cat(parts) if parts else torch.empty(0, len(sizes)).double()


def _span_shares(rows: Tensor, chosen: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the shares given the chosen rows themselves, [n, m, d]."""
    gram = chosen @ chosen.mT
    along = (chosen @ rows[:, :, None])[..., 0]
    shares: list[Tensor] = []
    for m in sizes:
        inverse = torch.linalg.pinv(gram[:, :m, :m], rtol=1e-9, hermitian=True)
        inside = (along[:, None, :m] @ inverse @ along[:, :m, None])[:, 0, 0]
        shares.append(inside / rows.square().sum(1))
    return torch.stack(shares, dim=1).clamp(0.0, 1.0)


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
