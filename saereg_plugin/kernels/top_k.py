"""Exact top-k over many latents, and selection of active latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from saereg_plugin.kernels.selected import Selected, select_rows

_GROUP = 8
_BLOCK_ENTRIES = 2**24
_BATCH_GROUPS = (32, 16, 8, 4)


def top_k(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return the k largest entries of each row and their columns, in no order.

    The k largest entries lie in the k groups of largest maxima: were one outside,
    each of those k groups would hold a larger one. So the groups are ranked first,
    recursively, and only their members are compared. Exact; among equal entries
    any may be taken, as in ``torch.topk``.

    Args:
        values: [batch, n].
        k: at least 1, at most n.

    Returns:
        Values [batch, k] and columns, int64 [batch, k].
    """
    batch, n = values.shape
    groups = n // _GROUP
    if groups * _GROUP != n or groups <= 4 * k or not values.is_contiguous():
        top = values.topk(k, dim=-1, sorted=False)
        return top.values, top.indices
    # strided groups: the maximum over dimension 1 runs along contiguous memory
    maxima = values.view(batch, _GROUP, groups).amax(dim=1)
    chosen = top_k(maxima, k)[1]
    members = torch.arange(0, n, groups, device=values.device)
    columns = (chosen[:, None, :] + members[None, :, None]).view(batch, _GROUP * k)
    starts = torch.arange(0, batch * n, n, device=values.device)
    # take on flat positions is three times as fast as gather
    top = values.take(columns + starts[:, None]).topk(k, dim=-1, sorted=False)
    return top.values, columns.gather(1, top.indices)


def top_k_of_all(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return the k largest positive entries of a whole matrix and their flat positions.

    The k-th largest maximum of groups is a lower bound of the k-th largest entry,
    so that only groups that reach it are read again. Exact, as in ``top_k``.

    Args:
        values: [batch, n], contiguous.
        k: at least 1.

    Returns:
        Values and positions, at most k of each, in no order.
    """
    batch, n = values.shape
    group = _group_of_all(values, k)
    if group == 1:
        return _positive(*values.view(-1).topk(min(k, values.numel()), sorted=False))
    groups = n // group
    maxima = values.view(batch, group, groups).amax(dim=1).view(-1)
    bound = maxima.topk(k, sorted=False).values.min().clamp(min=0)
    # the bound itself counts unless it is 0
    reached = ((maxima >= bound) & (maxima > 0)).nonzero().squeeze(1)
    first = reached + (reached // groups) * (n - groups)
    members = torch.arange(0, n, groups, device=values.device)
    positions = (first[:, None] + members).view(-1)
    candidates = values.take(positions)
    kept = ((candidates >= bound) & (candidates > 0)).nonzero().squeeze(1)
    candidates, positions = candidates[kept], positions[kept]
    if candidates.numel() <= k:
        return candidates, positions
    top = candidates.topk(k, sorted=False)
    return top.values, positions[top.indices]


def _group_of_all(values: torch.Tensor, k: int) -> int:
    """Return the largest size of groups that leaves four groups for each wanted entry."""
    # with fewer, most groups would be read again, through positions of 8 bytes each
    for group in _BATCH_GROUPS:
        if values.shape[1] % group == 0 and values.numel() >= 4 * k * group:
            return group
    return 1


def _positive(
    values: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    kept = values > 0
    return values[kept], positions[kept]


@dataclass(frozen=True)
class PreActivations:
    """
    The matrix ``(sae_in @ W_enc + b_enc) * norms``, computed when asked for, in blocks.

    Args:
        sae_in: [batch, d_in].
        W_enc: [d_in, d_sae].
        b_enc: [d_sae].
        norms: of the decoder's rows, [d_sae], or None for ones.
        dtype: of the product; autocast's data type ranks latents by a product of that
            precision, as SAELens does under autocast.
    """

    sae_in: torch.Tensor
    W_enc: torch.Tensor
    b_enc: torch.Tensor
    norms: torch.Tensor | None
    dtype: torch.dtype

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_enc.shape[1]

    @property
    def exact(self) -> bool:
        """Whether the product has the weights' own precision."""
        return self.dtype == self.W_enc.dtype

    def scaled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``W_enc`` [d_in, d_sae] and ``b_enc`` [d_sae] times the norms."""
        if self.norms is None:
            return self.W_enc, self.b_enc
        return self.W_enc * self.norms, self.b_enc * self.norms

    def blocks(self, rows: int | None = None) -> Iterator[torch.Tensor]:
        """Yield blocks of rows [rows, d_sae], at least one; each is overwritten by the next."""
        batch = self.sae_in.shape[0]
        if rows is None:
            rows = max(1, min(batch, _BLOCK_ENTRIES // self.d_sae))
        sae_in, weight, bias = (
            each.to(self.dtype) for each in (self.sae_in, *self.scaled())
        )
        buffer = weight.new_empty(rows, self.d_sae)
        # no rows are one block of none
        for start in range(0, max(batch, 1), rows):
            end = min(start + rows, batch)
            out = buffer[: end - start]
            yield torch.addmm(bias, sae_in[start:end], weight, out=out)


def select_top_k(pre: PreActivations, k: int) -> tuple[Selected, torch.Tensor]:
    """
    Select the k largest pre-activations of each row.

    Returns:
        The selection and its entries of the matrix, [n]; negative ones stay.
    """
    values, latents = [], []
    for block in pre.blocks():
        value, latent = top_k(block, k)
        latent, order = latent.sort(dim=1)
        values.append(value.gather(1, order))
        latents.append(latent)
    selected = select_rows(torch.cat(latents), pre.d_sae)
    return selected, torch.cat(values).reshape(-1)


def select_batch_top_k(
    pre: PreActivations, count: int
) -> tuple[Selected, torch.Tensor]:
    """
    Select the ``count`` largest positive pre-activations of the whole batch.

    Returns:
        The selection and its entries of the matrix, [n]; fewer than ``count`` if
        fewer are positive.
    """
    (matrix,) = pre.blocks(pre.sae_in.shape[0])
    return _by_position(*top_k_of_all(matrix, count), matrix.shape)


def batch_selection(
    values: torch.Tensor, positions: torch.Tensor, count: int, shape: tuple[int, int]
) -> tuple[Selected, torch.Tensor]:
    """
    Select the ``count`` largest positive of some entries of a matrix.

    Args:
        values: of the entries, [n].
        positions: flat, int64 [n].
        count: fewer are selected if fewer are positive.
        shape: of the matrix, (batch, d_sae).
    """
    kept = values > 0
    values, positions = values[kept], positions[kept]
    if len(values) > count:
        values, order = values.topk(count, sorted=False)
        positions = positions[order]
    return _by_position(values, positions, shape)


def _by_position(
    values: torch.Tensor, positions: torch.Tensor, shape: tuple[int, ...]
) -> tuple[Selected, torch.Tensor]:
    batch, d_sae = shape
    positions, order = positions.sort()
    counts = torch.bincount(positions // d_sae, minlength=batch)
    offsets = functional.pad(counts.cumsum(0), (1, 0))
    return Selected(positions % d_sae, offsets, d_sae), values[order]
