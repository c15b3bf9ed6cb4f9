"""Latents shared by two SAEs, from matchings of their decoders and encoders."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saereg_plugin.metrics import (
    SHARED_THRESHOLD,
    match_many,
    shared_mask,
    with_latent_ids,
)


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
    decoder, encoder = match_many(
        [(dec_a[kept_a], dec_b[kept_b]), (enc_a[kept_a], enc_b[kept_b])]
    )
    decoder, encoder = (
        with_latent_ids(found, kept_a, kept_b, n_a=len(dec_a))
        for found in (decoder, encoder)
    )
    return SharedLatents(
        partner=decoder.partner,
        encoder_partner=encoder.partner,
        decoder_similarity=decoder.similarity,
        encoder_similarity=encoder.similarity,
        shared=shared_mask(decoder, encoder, threshold=threshold),
        n_b=len(dec_b),
        denominator=min(len(kept_a), len(kept_b)),
    )
