"""Bounds of the error of a bfloat16 product."""

from __future__ import annotations

from dataclasses import dataclass

import torch

STORED = 2.0**-8
"""Largest relative error of a number that is rounded to bfloat16."""

_TINY = 1.2e-38
"""Above the smallest normal number, below which hardware may take numbers for 0."""

_LOST = 1.1e-19
"""Above any number whose square is no normal number."""

_ROUNDING = 1.0 + 2.0**-6
"""Covers the rounding of the bounds themselves, also where float32 products are made in TF32
or bfloat16, as ``torch.set_float32_matmul_precision`` allows."""

_VANISHING = 4
"""Numbers of a term that hardware may take for 0: the product and the sum, in either type."""


def accumulation_error(n_terms: int) -> float:
    """
    Return the error of sums of ``n_terms`` products in float32, over the sum of their sizes.

    It covers a sum in any order with truncated additions, as tensor cores make them
    (``n_terms * 2^-23``), and the rounding of the float32 product of the same numbers, which
    is ranked in the end (``n_terms * 2^-24``).
    """
    return n_terms * 2.0**-22


def upper_norms(matrix: torch.Tensor) -> torch.Tensor:
    """
    Return numbers that are no smaller than the norm of each row, float32 [n].

    Args:
        matrix: float32 [n, d].
    """
    d = matrix.shape[1]
    norms = torch.linalg.vector_norm(matrix, dim=1)
    # a sum in float32, of squares that may have vanished
    return norms * (1.0 + d * 2.0**-23) + d**0.5 * _LOST


@dataclass(frozen=True)
class LatentSizes:
    """
    What bounds the error of each latent's values.

    Attributes:
        norms: upper bound of the norm of the encoder vector, float32 [n].
        errors: upper bound of the norm of what bfloat16 loses of it, and of the rounding of
            sums over the norm of the input, float32 [n].
        offsets: upper bound of the error that does not depend on the input, float32 [n].
    """

    norms: torch.Tensor
    errors: torch.Tensor
    offsets: torch.Tensor

    def of_groups(self, group: int) -> LatentSizes:
        """Return the largest of each strided group of latents, [n / group]."""
        return LatentSizes(
            *(
                each.view(group, -1).amax(dim=0)
                for each in (self.norms, self.errors, self.offsets)
            )
        )


def latent_sizes(
    norms: torch.Tensor, lost: torch.Tensor, bias: torch.Tensor, n_terms: int
) -> LatentSizes:
    """
    Return what bounds the error of each latent's values.

    For x^ = bf16(x) and w^ = bf16(w), |<x, w> - <x^, w^>| is at most
    ||x - x^|| ||w|| + ||x^|| ||w - w^||.

    Args:
        norms: upper bounds of ||w||, [n].
        lost: upper bounds of ||w - w^||, [n].
        bias: float32 [n].
        n_terms: products in a sum.
    """
    rounding = accumulation_error(n_terms)
    # what is lost of a vector whose numbers are all taken for 0
    small = n_terms**0.5 * _TINY
    return LatentSizes(
        norms=norms,
        errors=lost + rounding * (norms + lost) + small,
        offsets=rounding * bias.abs() + small * (norms + _VANISHING * n_terms**0.5),
    )


@dataclass(frozen=True)
class RowSizes:
    """
    What bounds the error of each row's values.

    Attributes:
        norms: upper bound of the norm of the input in bfloat16, float32 [batch].
        lost: upper bound of the norm of what bfloat16 loses of it, float32 [batch].
    """

    norms: torch.Tensor
    lost: torch.Tensor


def row_sizes(sae_in: torch.Tensor, coarse: torch.Tensor) -> RowSizes:
    """Return what bounds the error of each row, given float32 and bfloat16 [batch, d_in]."""
    rounded = coarse.float()
    return RowSizes(upper_norms(rounded), upper_norms(sae_in - rounded))


def error_terms(
    rows: RowSizes, latents: LatentSizes
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return two matrices, [batch, 3] and [3, n], whose product bounds the error.

    That is the error of ``<x^, w^> + bias`` as the hardware sums it, before it is stored,
    against the value of the float32 step.
    """
    left = torch.stack([rows.lost, rows.norms, torch.ones_like(rows.norms)], dim=1)
    right = torch.stack([latents.norms, latents.errors, latents.offsets])
    return left * _ROUNDING, right
