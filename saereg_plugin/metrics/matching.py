"""One-to-one matching of latents, and the latents two SAEs share."""

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


class SharedLatents(NamedTuple):
    """
    Latents of A and of B that are the same by decoder and by encoder.

    Every tensor is indexed by the latent id of A, whichever latents took part;
    partners are latent ids of B.
    """

    partner: Tensor
    """[n_a] the decoder's partner, -1 for none."""
    encoder_partner: Tensor
    """[n_a] the encoder's partner, -1 for none."""
    decoder_similarity: Tensor
    """[n_a] |cos| to the decoder's partner, 0 for none."""
    encoder_similarity: Tensor
    """[n_a] |cos| to the encoder's partner, 0 for none."""
    shared: Tensor
    """[n_a] bool."""
    n_b: int
    """Latents of B, taking part or not."""
    denominator: int
    """The smaller of the two numbers of latents that took part."""
    decoder_gap: float = 0.0
    """``Matching.gap`` of the decoders' matching."""
    encoder_gap: float = 0.0
    """``Matching.gap`` of the encoders' matching."""

    @property
    def n_shared(self) -> int:
        """Number of shared latents."""
        return int(self.shared.sum())

    @property
    def fraction(self) -> float | None:
        """Shared latents over ``denominator``; None if no latent took part."""
        return self.n_shared / self.denominator if self.denominator else None

    @property
    def shared_b(self) -> Tensor:
        """[n_b] bool: the same latents by their ids in B."""
        mask = torch.zeros(self.n_b, dtype=torch.bool)
        mask[self.partner[self.shared]] = True
        return mask


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


def shared_latents(
    dec_a: Tensor,
    enc_a: Tensor,
    dec_b: Tensor,
    enc_b: Tensor,
    *,
    ids_a: Tensor | None = None,
    ids_b: Tensor | None = None,
    threshold: float = SHARED_THRESHOLD,
) -> SharedLatents:
    """
    Latents shared by two SAEs (arXiv 2603.04198, after arXiv 2501.16615).

    A latent is shared if the Hungarian matchings of decoders and of encoders by
    |cos| give it the same partner and both similarities exceed ``threshold``.

    Args:
        dec_a, enc_a: decoder and encoder vectors of A as rows, [n_a, d_in].
        dec_b, enc_b: those of B, [n_b, d_in].
        ids_a, ids_b: ids of the latents that take part (say the alive ones);
            all by default. The others are left out before matching.
        threshold: lower bound, exclusive, of both similarities.
    """
    kept_a = torch.arange(len(dec_a)) if ids_a is None else ids_a
    kept_b = torch.arange(len(dec_b)) if ids_b is None else ids_b
    n_a = len(dec_a)
    decoder, encoder = match_many(
        [(dec_a[kept_a], dec_b[kept_b]), (enc_a[kept_a], enc_b[kept_b])]
    )
    partner, decoder_similarity = _by_latent_id(decoder, kept_a, kept_b, n_a)
    encoder_partner, encoder_similarity = _by_latent_id(encoder, kept_a, kept_b, n_a)
    shared = (
        (partner >= 0)
        & (partner == encoder_partner)
        & (decoder_similarity > threshold)
        & (encoder_similarity > threshold)
    )
    return SharedLatents(
        partner=partner,
        encoder_partner=encoder_partner,
        decoder_similarity=decoder_similarity,
        encoder_similarity=encoder_similarity,
        shared=shared,
        n_b=len(dec_b),
        denominator=min(len(kept_a), len(kept_b)),
        decoder_gap=decoder.gap,
        encoder_gap=encoder.gap,
    )


def _by_latent_id(
    matching: Matching, ids_a: Tensor, ids_b: Tensor, n_a: int
) -> tuple[Tensor, Tensor]:
    """
    Translate a matching of filtered rows into latent ids: partners and similarities.

    A rectangular solver lists only the rows it matched, so two of its outputs
    may not be compared position by position: entry i of each can be another latent.
    """
    partner = torch.full((n_a,), UNMATCHED, dtype=torch.int64)
    similarity = torch.zeros(n_a)
    found = matching.partner >= 0
    partner[ids_a[found]] = ids_b[matching.partner[found]]
    similarity[ids_a] = matching.similarity
    return partner, similarity
