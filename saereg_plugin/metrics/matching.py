"""One-to-one matching of latents."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from saereg_plugin.metrics.assignment.certificate import relative
from saereg_plugin.metrics.assignment.solve import assign
from saereg_plugin.metrics.assignment.weights import (
    DenseWeights,
    RowWeights,
    Weights,
)

SHARED_THRESHOLD = 0.7
"""Both similarities of a shared latent exceed this (arXiv 2603.04198)."""

UNMATCHED = -1


_AT_A_TIME = 2
"""Matchings solved side by side: one computes products while the other searches."""


class Matching(NamedTuple):
    """A one-to-one matching of rows of A to rows of B of maximal total similarity."""

    partner: Tensor
    """[n_a] row of B matched to each row of A, -1 for none (A has more rows)."""
    similarity: Tensor
    """[n_a] float32 similarity to the partner, 0 for none."""
    gap: float
    """
    The largest total is at most this much above this matching's; 0 is proven optimal.

    Proven by ``prices`` and one pass over all pairs; ``certify`` repeats the proof.
    """
    prices: Tensor
    """[n_b] float64 prices of the rows of B, in units of similarity."""

    @property
    def mean(self) -> float:
        """Mean similarity over the matched rows; 0 if there are none."""
        matched = self.similarity[self.partner >= 0]
        return float(matched.double().mean()) if len(matched) else 0.0

    @property
    def relative_gap(self) -> float:
        """``gap`` over the total's absolute value; 0 if there is no gap."""
        return relative(self.gap, float(self.similarity.double().sum()))


def hungarian(similarity: Tensor, *, relative_gap: float = 0.0) -> Matching:
    """
    Match rows to columns of ``similarity`` [n_a, n_b], maximising the sum, exactly.

    Entries are rounded towards zero to 2^-30 (2^-29 if any is negative) of the power of
    two above the largest; the optimum and the gap are those of the rounded matrix.

    Raises:
        InputError: if it is no matrix, or holds NaN or infinity.

    >>> hungarian(torch.tensor([[0.9, 0.8], [0.8, 0.1]])).partner.tolist()
    [1, 0]
    """
    return _solved(DenseWeights(similarity), relative_gap)


def match_rows(
    a: Tensor, b: Tensor, *, absolute: bool = True, relative_gap: float = 0.0
) -> Matching:
    """
    Match the rows of ``a`` [n_a, d] and ``b`` [n_b, d] by |cos|, or by signed cosine.

    The whole smaller side is matched. Cosines are float32 products rounded towards zero
    to a multiple of 2^-30 (signed: 2^-29), which leaves those above 2^-7 (2^-6) as they
    are; for these similarities the matching is optimal exactly, and proven to be.

    The matrix of similarities is kept while it has at most 2 GiB, and computed anew in
    every pass otherwise; there is never a float64 one.

    Args:
        a, b: rows; they need not have norm 1. A zero row has similarity 0 to all.
        absolute: match by |cos| instead of the signed cosine.
        relative_gap: be content with a total proven to be within this share of the
            largest; 0 demands the optimum.

    Raises:
        InputError: for rows of different lengths, and for NaN or infinity.
    """
    return _solved(RowWeights(a, b, absolute=absolute), relative_gap)


def match_many(
    pairs: Sequence[tuple[Tensor, Tensor]],
    *,
    absolute: bool = True,
    relative_gap: float = 0.0,
) -> list[Matching]:
    """
    Match several pairs as ``match_rows`` does, two at a time.

    Products are computed for one matching at a time, with all of torch's threads,
    while the other one searches. Takes the memory of two matchings.
    """
    products = Lock()

    def solve(pair: tuple[Tensor, Tensor]) -> Matching:
        weights = RowWeights(*pair, absolute=absolute, products=products)
        return _solved(weights, relative_gap)

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return list(pool.map(solve, pairs))


def _solved(weights: Weights, relative_gap: float) -> Matching:
    found = assign(weights, relative_gap=relative_gap)
    return Matching(
        partner=torch.from_numpy(found.partner).long(),
        similarity=torch.from_numpy(found.similarity).float(),
        gap=found.gap,
        prices=torch.from_numpy(found.prices),
    )
