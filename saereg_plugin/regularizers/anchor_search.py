"""The token embeddings nearest to decoder rows, and how much they pull (arXiv 2606.27941)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from saereg_plugin.kernels.top_k import top_k
from saereg_plugin.sources.embeddings import Vocabulary

AnchorMode = Literal["nearest", "logsumexp", "softmax"]

_TOKENS = 8192
_LATENTS = 1024
_GATHERED = 1 << 19
"""Entries of gathered embeddings held at once: few enough to stay in the cache."""


def nearest_tokens(
    unit: torch.Tensor,
    vocabulary: Vocabulary,
    top: int,
    *,
    dtype: torch.dtype | None = None,
    chunk: int = _TOKENS,
) -> torch.Tensor:
    """
    Return the ``top`` tokens of largest cosine to each row, int64 [n, top], in no order.

    Streamed: the vocabulary in chunks, and rows in blocks within a chunk.

    Args:
        unit: unit rows, [n, d].
        vocabulary: embeddings of at least ``top`` tokens.
        top: tokens for each row.
        dtype: of the products; None is that of ``unit``. In bfloat16, near ties may be
            taken in another order.
        chunk: tokens in one chunk.
    """
    dtype = unit.dtype if dtype is None else dtype
    queries = unit.to(dtype)
    tokens = torch.zeros(len(unit), top, dtype=torch.long, device=unit.device)
    best = torch.full_like(tokens, float("-inf"), dtype=unit.dtype)
    for start in range(0, len(vocabulary.rows), chunk):
        keys = _unit_tokens(vocabulary, slice(start, start + chunk), dtype).T
        for first in range(0, len(queries), _LATENTS):
            part = slice(first, first + _LATENTS)
            found = top_k(queries[part] @ keys, min(top, keys.shape[1]))
            values = torch.cat([best[part], found[0].to(unit.dtype)], dim=1)
            columns = torch.cat([tokens[part], found[1] + start], dim=1)
            kept = values.topk(top, dim=1, sorted=False)
            best[part] = kept.values
            tokens[part] = columns.gather(1, kept.indices)
    return tokens


def _unit_tokens(
    vocabulary: Vocabulary, part: slice, dtype: torch.dtype
) -> torch.Tensor:
    scale = vocabulary.inverse_norms[part, None]
    return (vocabulary.rows[part].to(scale.dtype) * scale).to(dtype)


def anchor_scores(
    cosines: torch.Tensor, mode: AnchorMode, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return each latent's score s [n] and the derivatives ds/dcos [n, top].

    With t the temperature and sums over the kept tokens: nearest ``max cos``; logsumexp
    ``t log sum exp(cos / t)``; softmax ``sum p cos`` with ``p = softmax(cos / t)``, through
    which the gradient passes.

    Args:
        cosines: of each latent to its kept tokens, [n, top].
        mode: how they are combined.
        temperature: above 0; unused by nearest.
    """
    if mode == "nearest":
        score, best = cosines.max(dim=1)
        return score, torch.zeros_like(cosines).scatter_(1, best[:, None], 1.0)
    share = (cosines / temperature).softmax(dim=1)
    if mode == "logsumexp":
        return temperature * (cosines / temperature).logsumexp(dim=1), share
    score = (share * cosines).sum(dim=1)
    return score, share * (1 + (cosines - score[:, None]) / temperature)


class Anchored(NamedTuple):
    """How the kept tokens act on each latent."""

    score: torch.Tensor
    """[n] what is to be maximised."""
    max_cosine: torch.Tensor
    """[n] exact cosine to the nearest kept token."""
    pull: torch.Tensor
    """[n, d] ``sum_k w_ik e_k`` with w = ds/dcos and e_k of norm 1."""
    along: torch.Tensor
    """[n] ``sum_k w_ik cos_ik``."""


def score_tokens(
    unit: torch.Tensor,
    vocabulary: Vocabulary,
    tokens: torch.Tensor,
    mode: AnchorMode,
    *,
    temperature: float = 1.0,
) -> Anchored:
    """
    Score each row [n, d] of norm 1 by the exact cosines to its ``tokens``, int64 [n, top].

    The embeddings are gathered a block of rows at a time and never held for all.
    """
    (n, top), d = tokens.shape, unit.shape[1]
    result = Anchored(
        unit.new_empty(n), unit.new_empty(n), torch.empty_like(unit), unit.new_empty(n)
    )
    step = max(1, _GATHERED // (top * d))
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        chosen = tokens[part].reshape(-1)
        rows = vocabulary.rows.index_select(0, chosen).to(unit.dtype).view(-1, top, d)
        scale = vocabulary.inverse_norms[chosen].to(unit.dtype).view(-1, top)
        cosines = torch.bmm(rows, unit[part, :, None]).squeeze(2) * scale
        score, weight = anchor_scores(cosines, mode, temperature)
        result.score[part] = score
        result.max_cosine[part] = cosines.amax(dim=1)
        result.along[part] = (weight * cosines).sum(dim=1)
        result.pull[part] = torch.bmm((weight * scale)[:, None, :], rows).squeeze(1)
    return result
