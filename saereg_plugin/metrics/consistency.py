"""Latents shared by SAEs trained from different seeds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saereg_plugin.metrics.matching import (
    SHARED_THRESHOLD,
    Matching,
    match_many,
    match_rows,
    with_latent_ids,
)


class ShareClasses(NamedTuple):
    """Masks over the latents of one SAE, [n] bool each; every latent is in one."""

    always: Tensor
    """Shared with every other seed."""
    sometimes: Tensor
    """Shared with some, not all."""
    never: Tensor
    """Shared with none."""


def shared_mask(
    decoder: Matching, encoder: Matching, *, threshold: float = SHARED_THRESHOLD
) -> Tensor:
    """
    Latents of A with one partner by decoder and encoder, both above ``threshold``.

    [n_a] bool, from two matchings by the same latent ids (arXiv 2603.04198). From
    ``seen_from_b`` of both it is the mask over B's latents.
    """
    return (
        (decoder.partner >= 0)
        & (decoder.partner == encoder.partner)
        & (decoder.similarity > threshold)
        & (encoder.similarity > threshold)
    )


def latent_stability(shared: Tensor) -> Tensor:
    """
    Share of the other seeds in which each latent is shared, [n] float32.

    Args:
        shared: [n_others, n] bool; row t has the latents of this SAE that are shared
            with the t-th other seed, by this SAE's latent ids.
    """
    if shared.ndim != 2 or len(shared) == 0:
        raise ValueError(f"expected masks [n_others >= 1, n], got {[*shared.shape]}")
    return shared.float().mean(dim=0)


def stable_mask(stability: Tensor, *, minimum: float) -> Tensor:
    """
    Latents shared with at least the share ``minimum`` of the other seeds, [n] bool.

    A rounding error of float32 does not exclude a latent: 2 of 3 is 2/3.

    >>> stable_mask(torch.tensor([0.0, 0.5, 1.0]), minimum=0.5).tolist()
    [False, True, True]
    """
    if not 0 < minimum <= 1:
        raise ValueError(f"expected 0 < minimum <= 1, got {minimum}")
    return stability.double() >= minimum - 1e-6


def share_classes(shared: Tensor) -> ShareClasses:
    """
    Always, sometimes and never shared latents of one SAE.

    The masks [n_others, n] must all be by this SAE's own latent ids: the code
    published with arXiv 2603.04198 adds latent i of SAE 0 in the pairs (0, 1) and
    (0, 2) to latent i of SAE 1 in the pair (1, 2), which is another latent.
    """
    stability = latent_stability(shared)
    # Exact: a mean of n ones is 1 and of n zeros is 0.
    always, never = shared.all(dim=0), stability == 0
    return ShareClasses(always, ~(always | never), never)


def pw_mcc(dictionaries: list[Tensor], *, signed: bool) -> float:
    """
    Pairwise mean correlation coefficient of dictionaries (arXiv 2505.20254).

    For every pair, the mean matched cosine under the assignment that maximises
    it; then the mean over pairs.

    Args:
        dictionaries: two or more, [n, d_in] each, vectors as rows.
        signed: match and average the signed cosine; otherwise match and average
            |cos|. The assignments differ, so one is not the other's absolute value.
    """
    if len(dictionaries) < 2:
        raise ValueError(f"expected two or more dictionaries, got {len(dictionaries)}")
    means = [
        match_rows(a, b, absolute=not signed).mean
        for i, a in enumerate(dictionaries)
        for b in dictionaries[i + 1 :]
    ]
    return float(torch.tensor(means, dtype=torch.float64).mean())


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
        decoder_gap=decoder.gap,
        encoder_gap=encoder.gap,
    )
