"""One-to-one matching of latents, and the latents two SAEs share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saereg_plugin.metrics.similarity import cosine

SHARED_THRESHOLD = 0.7
"""Both similarities of a shared latent exceed this (arXiv 2603.04198)."""

UNMATCHED = -1


class Matching(NamedTuple):
    """A one-to-one matching of rows of A to rows of B of maximal total similarity."""

    partner: Tensor
    """[n_a] row of B matched to each row of A, -1 for none (A has more rows)."""
    similarity: Tensor
    """[n_a] float32 similarity to the partner, 0 for none."""

    @property
    def mean(self) -> float:
        """Mean similarity over the matched rows; 0 if there are none."""
        matched = self.similarity[self.partner >= 0]
        return float(matched.double().mean()) if len(matched) else 0.0


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


def hungarian(similarity: Tensor) -> Matching:
    """
    Match rows to columns of ``similarity`` [n_a, n_b], maximising the sum, exactly.

    >>> hungarian(torch.tensor([[0.9, 0.8], [0.8, 0.1]])).partner.tolist()
    [1, 0]
    """
    n_a = len(similarity)
    partner = torch.full((n_a,), UNMATCHED, dtype=torch.int64)
    matched = torch.zeros(n_a)
    # maximize=True would make scipy negate a copy
    cost = similarity.double().neg_().numpy()
    rows, columns = linear_sum_assignment(cost)
    row, column = torch.from_numpy(rows), torch.from_numpy(columns)
    partner[row] = column
    matched[row] = similarity[row, column].float()
    return Matching(partner, matched)


def match_rows(a: Tensor, b: Tensor, *, absolute: bool = True) -> Matching:
    """
    Match the rows of ``a`` [n_a, d] and ``b`` [n_b, d] by |cos|, or by signed cosine.

    The only place that chooses a solver: callers see rows and a ``Matching``,
    never the similarity matrix, which here is dense (12 bytes a pair of rows).
    """
    similarity = cosine(a, b)
    return hungarian(similarity.abs_() if absolute else similarity)


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
    partner, decoder_similarity = _by_latent_id(
        match_rows(dec_a[kept_a], dec_b[kept_b]), kept_a, kept_b, n_a
    )
    encoder_partner, encoder_similarity = _by_latent_id(
        match_rows(enc_a[kept_a], enc_b[kept_b]), kept_a, kept_b, n_a
    )
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
    )


def _by_latent_id(
    matching: Matching, ids_a: Tensor, ids_b: Tensor, n_a: int
) -> Matching:
    """
    Translate a matching of filtered rows into latent ids.

    A rectangular solver lists only the rows it matched, so two of its outputs
    may not be compared position by position: entry i of each can be another latent.
    """
    partner = torch.full((n_a,), UNMATCHED, dtype=torch.int64)
    similarity = torch.zeros(n_a)
    found = matching.partner >= 0
    partner[ids_a[found]] = ids_b[matching.partner[found]]
    similarity[ids_a] = matching.similarity
    return Matching(partner, similarity)
