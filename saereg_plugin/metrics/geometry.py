"""Geometry of one dictionary: cosines of its rows and encoders."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from saereg_plugin.metrics.similarity import cosine_blocks, unit_rows

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
