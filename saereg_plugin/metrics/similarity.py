"""Cosines between rows of one or two dictionaries, streamed in row blocks."""

from __future__ import annotations

import math
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
    alignment: TokenAlignment, n_tokens: int, *, threshold: float = ALIGNED_THRESHOLD
) -> Tensor:
    """Tokens that are the nearest one of at least one aligned latent, [n_tokens] bool."""
    covered = torch.zeros(n_tokens, dtype=torch.bool)
    covered[alignment.token[aligned_mask(alignment, threshold=threshold)]] = True
    return covered


ALIVE_THRESHOLD = 0.1
"""A latent is alive if cos(enc_j, dec_j) exceeds this (arXiv 2603.04198)."""

HISTOGRAM_BINS = 10_000
"""Bins of |cos| on [0, 1]: the quantiles below are within 1e-4."""


class RowGeometry(NamedTuple):
    """Cosines between different rows of one matrix."""

    mean_abs: float
    """c_dec of arXiv 2508.16560: mean over i != j of |cos(row_i, row_j)|."""
    max_abs: float
    median_abs: float
    p90_abs: float
    p99_abs: float
    mean_max: float
    """MeanCosSim: mean_i max_{j != i} cos(row_i, row_j), signed."""
    row_mean_abs: Tensor
    """[n] mean over j != i of |cos(row_i, row_j)|."""
    row_max: Tensor
    """[n] max over j != i of the signed cosine."""


def row_geometry(rows: Tensor, *, unit: bool = False) -> RowGeometry:
    """
    Cosines between all pairs of different rows of ``rows`` [n >= 2, d], streamed.

    The n x n matrix is never held. Quantiles are over the n (n - 1) ordered pairs, from a
    histogram of |cos| with ``HISTOGRAM_BINS`` equal bins: each is the midpoint of its bin.
    ``unit``: the rows come from ``unit_rows``.
    """
    n = len(rows)
    if n < 2:
        raise ValueError(f"expected two or more rows, got {n}")
    row_sum = torch.zeros(n, dtype=torch.float64)
    row_max = torch.zeros(n)
    row_max_abs = torch.zeros(n)
    histogram = torch.zeros(HISTOGRAM_BINS, dtype=torch.float64)
    for block_rows, block in cosine_blocks(rows, rows, unit=unit):
        index = torch.arange(len(block))
        diagonal = index + block_rows.start
        block[index, diagonal] = -2.0
        row_max[block_rows] = block.amax(dim=1)
        block.abs_()
        block[index, diagonal] = 0.0
        row_sum[block_rows] = block.sum(dim=1, dtype=torch.float64)
        row_max_abs[block_rows] = block.amax(dim=1)
        block[index, diagonal] = -1.0  # out of the histogram's range: not counted
        histogram += torch.histc(block, HISTOGRAM_BINS, 0.0, 1.0)
    row_mean_abs = row_sum / (n - 1)
    median, p90, p99 = (_quantile(histogram, q) for q in (0.5, 0.9, 0.99))
    return RowGeometry(
        mean_abs=float(row_mean_abs.mean()),
        max_abs=float(row_max_abs.max()),
        median_abs=median,
        p90_abs=p90,
        p99_abs=p99,
        mean_max=float(row_max.double().mean()),
        row_mean_abs=row_mean_abs.float(),
        row_max=row_max,
    )


def _quantile(histogram: Tensor, q: float) -> float:
    """Midpoint of the first bin at which the cumulative share reaches ``q``."""
    cumulative = histogram.cumsum(0)
    reached = torch.searchsorted(cumulative, q * cumulative[-1:])
    return (int(reached) + 0.5) / len(histogram)


def expected_abs_cosine(d: int) -> float:
    """
    E|cos| of two independent random directions in ``d`` dimensions.

    Gamma(d / 2) / (sqrt(pi) Gamma((d + 1) / 2)): what c_dec is for random rows.

    >>> round(expected_abs_cosine(512), 4)
    0.0353
    """
    log = math.lgamma(d / 2) - math.lgamma((d + 1) / 2)
    return math.exp(log) / math.sqrt(math.pi)


def encoder_decoder_cosines(enc: Tensor, dec: Tensor) -> Tensor:
    """
    Cosine of each latent's encoder and decoder vector, [n]; 0 if either is zero.

    Args:
        enc: encoder vectors as rows, [n, d_in] (SAELens' ``W_enc`` transposed).
        dec: decoder vectors as rows, [n, d_in].
    """
    return (unit_rows(enc) * unit_rows(dec)).sum(dim=1).clamp_(-1.0, 1.0)


def alive_mask(
    enc: Tensor, dec: Tensor, *, threshold: float = ALIVE_THRESHOLD
) -> Tensor:
    """
    Latents with cos(enc_j, dec_j) > ``threshold``, [n] bool (arXiv 2603.04198).

    By weights alone: it needs no text, and can differ from a count of latents
    that fire.
    """
    return encoder_decoder_cosines(enc, dec) > threshold


def dead_count(alive: Tensor) -> int:
    """Number of latents that are not alive."""
    return int((~alive).sum())


def row_norms(rows: Tensor) -> Tensor:
    """Euclidean norm of each row, [n] float32, in the units of the weights."""
    return rows.detach().float().norm(dim=1)
