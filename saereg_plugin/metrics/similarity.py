"""Cosines between the rows of two matrices, streamed in row blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

ALIGNED_THRESHOLD = 0.8
"""A latent is aligned if its largest cosine to an embedding is at least this (arXiv 2606.27941)."""

PAIRED_THRESHOLD = 0.7
"""A latent is paired if its best |cos| exceeds this (arXiv 2603.04198)."""

BLOCK_ELEMENTS = 1 << 23
"""Cosines in one block: 32 MiB, and few enough for a float32 count to be exact."""


class MaxCosine(NamedTuple):
    """Best |cos| of every latent of A among those of B, and of B among those of A."""

    a_to_b: Tensor
    """[n_a] max_j |cos(a_i, b_j)|."""
    b_to_a: Tensor
    """[n_b] max_i |cos(a_i, b_j)|."""

    @property
    def mean(self) -> float:
        """(mean_i max_j S_ij + mean_j max_i S_ij) / 2."""
        both = self.a_to_b.double().mean() + self.b_to_a.double().mean()
        return float(both / 2)


class Paired(NamedTuple):
    """Share of latents with a best |cos| above the threshold."""

    one_sided: float
    """Of the latents of A: the published figure."""
    symmetrised: float
    """Mean of the shares of A's latents and of B's."""


def unit_rows(rows: Tensor) -> Tensor:
    """
    Return the rows [n, d] in float32, scaled to norm 1; a zero row stays zero.

    Finite rows of float64 may be beyond float32's range: they are scaled first.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    rows = rows.detach()
    if rows.dtype != torch.float64:
        rows = rows.float()
    # By the largest entry first: squares of very small or large rows leave float32.
    largest = rows.abs().amax(dim=1, keepdim=True)
    rows = (rows / torch.where(largest > 0, largest, 1.0)).float()
    norm = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norm > 0, norm, 1.0)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the full matrix of signed cosines [n_a, n_b] of rows of A and of B."""
    return (unit_rows(a) @ unit_rows(b).T).clamp_(-1.0, 1.0)


def cosine_blocks(
    a: Tensor, b: Tensor, *, unit: bool = False
) -> Iterator[tuple[slice, Tensor]]:
    """
    Yield ``(rows of A, their signed cosines [block, n_b] to B)``, top to bottom.

    The caller owns each block and may write into it. Memory is one block of at
    most ``BLOCK_ELEMENTS`` cosines (one row of them if B is wider than that).
    ``unit``: the rows come from ``unit_rows``, so that a dictionary that is compared many
    times is scaled once.
    """
    unit_a, unit_b = (a, b) if unit else (unit_rows(a), unit_rows(b))
    step = max(1, BLOCK_ELEMENTS // max(1, len(unit_b)))
    for start in range(0, len(unit_a), step):
        rows = slice(start, min(start + step, len(unit_a)))
        yield rows, (unit_a[rows] @ unit_b.T).clamp_(-1.0, 1.0)


def mean_max_cos(a: Tensor, b: Tensor, *, unit: bool = False) -> MaxCosine:
    """
    Best |cos| in both directions between the rows of ``a`` [n_a, d] and ``b`` [n_b, d].

    ``.mean`` is the mean max cosine of arXiv 2603.04198 for one pair of
    dictionaries; its tables average the decoder's and the encoder's. ``unit``: the rows
    come from ``unit_rows``.
    """
    a_to_b = torch.zeros(len(a))
    b_to_a = torch.zeros(len(b))
    for rows, block in cosine_blocks(a, b, unit=unit):
        block.abs_()
        a_to_b[rows] = block.amax(dim=1)
        torch.maximum(b_to_a, block.amax(dim=0), out=b_to_a)
    return MaxCosine(a_to_b, b_to_a)


def fraction_paired(
    a: Tensor, b: Tensor, *, threshold: float = PAIRED_THRESHOLD
) -> Paired:
    """Share of rows with a best |cos| above ``threshold`` (arXiv 2603.04198)."""
    best = mean_max_cos(a, b)
    one_sided = float((best.a_to_b > threshold).double().mean())
    reverse = float((best.b_to_a > threshold).double().mean())
    return Paired(one_sided, (one_sided + reverse) / 2)


class TokenAlignment(NamedTuple):
    """The nearest token of each row."""

    token: Tensor
    """[n] int64, argmax_j cos(row_i, e_j)."""
    cosine: Tensor
    """[n] float32, the signed cosine to it; 0 for a zero row."""


def nearest_token(
    rows: Tensor, embeddings: Tensor, *, unit: bool = False
) -> TokenAlignment:
    """
    Find the nearest embedding of each row by signed cosine, streamed and exact.

    Args:
        rows: [n, d].
        embeddings: [tokens, d].
        unit: both come from ``unit_rows``.
    """
    token = torch.zeros(len(rows), dtype=torch.long)
    cosine = torch.zeros(len(rows))
    for part, block in cosine_blocks(rows, embeddings, unit=unit):
        cosine[part], token[part] = block.max(dim=1)
    return TokenAlignment(token, cosine)


def aligned_mask(
    alignment: TokenAlignment, *, threshold: float = ALIGNED_THRESHOLD
) -> Tensor:
    """Latents with max_j cos(dec_i, e_j) of at least ``threshold``, [n] bool."""
    return alignment.cosine >= threshold


def covered_tokens(
    alignment: TokenAlignment,
    n_tokens: int,
    *,
    threshold: float = ALIGNED_THRESHOLD,
) -> Tensor:
    """Tokens that are the nearest one of at least one aligned latent, [n_tokens] bool."""
    covered = torch.zeros(n_tokens, dtype=torch.bool)
    covered[alignment.token[aligned_mask(alignment, threshold=threshold)]] = True
    return covered
