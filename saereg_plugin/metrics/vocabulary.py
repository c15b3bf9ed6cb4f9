"""Similarity of decoder rows to token embeddings (arXiv 2606.27941)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saereg_plugin.metrics.similarity import cosine_blocks
from saereg_plugin.sources.embeddings import ALIGNED_THRESHOLD

__all__ = [
    "ALIGNED_THRESHOLD",
    "TokenAlignment",
    "aligned_mask",
    "covered_tokens",
    "nearest_token",
]


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
