"""Latents shared by SAEs trained from different seeds."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from saereg_plugin.metrics.matching import SHARED_THRESHOLD, Matching


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
