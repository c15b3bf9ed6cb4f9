"""Exact top-k over many latents, through the maxima of groups."""

from __future__ import annotations

import torch

_GROUP = 8
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
