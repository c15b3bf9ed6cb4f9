"""Unique latents of several dictionaries, duplicates by decoder cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.metrics import PAIRED_THRESHOLD, cosine_blocks, unit_rows


@dataclass(frozen=True)
class Union:
    """
    Unique latents of several dictionaries, and the duplicates of each.

    Candidates are the rows of all dictionaries, one dictionary after the other.

    Attributes:
        source: dictionary of each candidate, int64 [m].
        cluster: unique latent that each candidate belongs to, int64 [m].
        representative: candidate that stands for each unique latent, int64 [n].
        shared_by: dictionaries with a candidate in each cluster, int64 [n].
    """

    source: Tensor
    cluster: Tensor
    representative: Tensor
    shared_by: Tensor

    @property
    def width(self) -> int:
        """Number of unique latents."""
        return len(self.representative)

    def mean(self, values: Tensor) -> Tensor:
        """
        Return the mean over the candidates of each unique latent.

        Args:
            values: of the candidates, [m] or [m, d].
        """
        exact = values.double()
        total = exact.new_zeros(self.width, *values.shape[1:])
        total.index_add_(0, self.cluster.to(values.device), exact)
        sizes = self.cluster.bincount(minlength=self.width).to(total)
        return (total / sizes.view(-1, *[1] * (values.ndim - 1))).to(values)

    def mean_rows(self, rows: Tensor) -> Tensor:
        """Return the mean direction with the mean norm; ``rows`` [m, d] of the candidates."""
        direction = unit_rows(self.mean(unit_rows(rows)))
        return direction.to(rows) * self.mean(rows.norm(dim=1))[:, None]


def unique_latents(
    rows: Sequence[Tensor],
    rates: Sequence[Tensor],
    *,
    threshold: float = PAIRED_THRESHOLD,
) -> Union:
    """
    Return the unique latents of several dictionaries.

    Greedy: candidates are taken in the order of how many other dictionaries have a duplicate,
    then of the firing rate, then of dictionary and latent. The first that is left represents a
    unique latent, and every other one that is left is its duplicate if their decoder rows have
    a signed cosine above ``threshold``. So no two representatives are duplicates, and each
    candidate is a duplicate of its representative. Codes are not negative, so that opposite
    rows are different latents. Duplicates inside one dictionary count as well.

    Args:
        rows: decoder rows of the candidates of each dictionary, [m_s, d].
        rates: share of the tokens on which each of them fires, [m_s].
        threshold: see above, from 0 to below 1.

    Raises:
        InputError: for fewer than two dictionaries, or a threshold outside of that.

    >>> eye = torch.eye(3)
    >>> found = unique_latents([eye[:2], eye[1:]], [torch.ones(2), torch.ones(2)])
    >>> found.width, found.shared_by.tolist(), found.cluster.tolist()
    (3, [2, 1, 1], [1, 0, 0, 2])
    """
    if len(rows) < 2:
        raise InputError(
            f"{len(rows)} SAE to pool; expected two or more that differ in seed. Train another seed."
        )
    if not 0 <= threshold < 1:
        raise InputError(f"threshold={threshold}; expected 0 or more, and less than 1.")
    sizes = torch.tensor([len(part) for part in rows])
    source = torch.arange(len(rows)).repeat_interleave(sizes)
    pairs = _duplicates(torch.cat([part.detach().cpu() for part in rows]), threshold)
    order = _order(pairs, source, torch.cat([rate.cpu().double() for rate in rates]))
    cluster, representative = _take(pairs, order, len(source))
    members = torch.stack([cluster, source]).unique(dim=1)
    shared_by = members[0].bincount(minlength=len(representative))
    return Union(source, cluster, representative, shared_by)


def _duplicates(rows: Tensor, threshold: float) -> Tensor:
    """Return the ordered pairs of different rows above the threshold, int64 [2, pairs], by row."""
    found: list[Tensor] = []
    unit = unit_rows(rows)
    for block_rows, block in cosine_blocks(unit, unit, unit=True):
        index = torch.arange(len(block))
        block[index, index + block_rows.start] = -1.0
        at, other = (block > threshold).nonzero().unbind(1)
        found.append(torch.stack([at + block_rows.start, other]))
    return torch.cat(found, 1) if found else torch.empty(2, 0, dtype=torch.int64)


def _order(pairs: Tensor, source: Tensor, rates: Tensor) -> Tensor:
    """Return the candidates in the order in which they may represent a unique latent."""
    at, other = pairs
    apart = source[at] != source[other]
    seen = torch.stack([at[apart], source[other[apart]]]).unique(dim=1)
    shared_with = seen[0].bincount(minlength=len(source))
    order = rates.argsort(descending=True, stable=True)
    return order[shared_with[order].argsort(descending=True, stable=True)]


def _take(pairs: Tensor, order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the cluster of each candidate, and the representative of each cluster."""
    ends = pairs[0].bincount(minlength=count).cumsum(0).tolist()
    cluster = torch.full((count,), -1, dtype=torch.int64)
    representative: list[int] = []
    for candidate in order.tolist():
        if cluster[candidate] >= 0:
            continue
        start = ends[candidate - 1] if candidate else 0
        near = pairs[1, start : ends[candidate]]
        cluster[near[cluster[near] < 0]] = len(representative)
        cluster[candidate] = len(representative)
        representative.append(candidate)
    return cluster, torch.tensor(representative, dtype=torch.int64)
