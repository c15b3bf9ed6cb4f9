"""Sums of one SAE along held-out images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.saes.topk_sae import TopK
from torch import Tensor

from saereg_plugin.metrics import (
    Codes,
    CodesBuffer,
    ReconstructionSums,
    reconstruction_sums,
)

Pool = Literal["max", "mean"]


class ImageTally:
    """
    Codes and reconstruction of one SAE, block by block of images.

    Args:
        sae: the SAE.
        blocks: slices of neighbouring images that cover them all.
        ks: latents kept in a row, for the curve of the error.
        pool: how the rows of an image become one code.
    """

    def __init__(
        self, sae: SAE[Any], blocks: Sequence[slice], *, ks: Sequence[int], pool: Pool
    ) -> None:
        self.sae = sae
        self.ks = [k for k in ks if k <= int(sae.cfg.d_sae)]
        self.reconstruction: list[ReconstructionSums | None] = [None] * len(blocks)
        self.nonzero = np.zeros(len(blocks))
        """Latents that are not 0, summed over the rows of each block."""
        self.relative = np.zeros((len(blocks), len(self.ks)))
        """Summed ``||x - x_hat||^2 / ||x||^2`` of each block, by ``ks``."""
        self._ends = torch.tensor([block.stop for block in blocks])
        self._pool: Pool = pool
        self._codes = CodesBuffer(int(sae.cfg.d_sae))
        self._seen = 0

    @property
    def codes(self) -> Codes:
        """Codes of all images."""
        return self._codes.joined()

    @torch.no_grad()
    def update(self, activations: Tensor, keep: Tensor) -> None:
        """
        Add the next images.

        Args:
            activations: [images, rows, d_in].
            keep: bool [images, rows], False for rows that do not count.

        Raises:
            ValueError: if a reconstruction is not finite.
        """
        rows = activations[keep].to(self.sae.dtype)
        acts = _dense(self.sae.encode(rows))
        places = torch.arange(len(keep)) + self._seen
        block = torch.searchsorted(self._ends, places, right=True)
        block = block[:, None].expand(keep.shape)[keep.cpu()]
        self._add_reconstruction(rows, self.sae.decode(acts), acts, block)
        for place, cut in enumerate(_cut(self.sae, rows, acts, self.ks)):
            found = _relative_error(rows.cpu(), self.sae.decode(cut).cpu())
            np.add.at(self.relative[:, place], block.numpy(), found.numpy())
        self._codes.add(Codes.of(_pooled(acts, keep, self._pool)))
        self._seen += len(keep)

    def _add_reconstruction(
        self, rows: Tensor, made: Tensor, acts: Tensor, block: Tensor
    ) -> None:
        if not bool(made.isfinite().all()):
            raise ValueError("its reconstruction holds NaN or infinity")
        for number in block.unique().tolist():
            own = block == number
            sums = reconstruction_sums(rows[own].cpu(), made[own].cpu())
            before = self.reconstruction[number]
            self.reconstruction[number] = sums if before is None else before + sums
            self.nonzero[number] += int((acts[own] != 0).sum())


def _dense(acts: Tensor) -> Tensor:
    return acts.to_dense() if acts.is_sparse else acts


def _pooled(acts: Tensor, keep: Tensor, pool: Pool) -> Tensor:
    """Return codes of images [images, d_sae] from those of the kept rows."""
    by_row = acts.new_zeros(*keep.shape, acts.shape[-1])
    by_row[keep] = acts
    if pool == "max":
        return by_row.amax(1)
    return by_row.sum(1) / keep.sum(1, keepdim=True)


def _cut(
    sae: SAE[Any], rows: Tensor, acts: Tensor, ks: Sequence[int]
) -> Iterator[Tensor]:
    """Yield codes with k latents in each row, those with the largest activations."""
    widest = _widened(sae, rows, max(ks)) if ks else acts
    order = widest.abs().argsort(dim=-1, descending=True, stable=True)
    for k in ks:
        kept = torch.zeros_like(widest, dtype=torch.bool)
        yield widest * kept.scatter_(-1, order[:, :k], True)


def _widened(sae: SAE[Any], rows: Tensor, k: int) -> Tensor:
    """Return codes of a TopK SAE that selects k latents; those of others as they are."""
    topk: Any = getattr(sae, "activation_fn", None)
    if not isinstance(topk, TopK):
        return _dense(sae.encode(rows))
    own = topk.k
    topk.k = k
    try:
        return _dense(sae.encode(rows))
    finally:
        topk.k = own


def _relative_error(rows: Tensor, made: Tensor) -> Tensor:
    """Return ``||x - x_hat||^2 / ||x||^2`` of each row, float64, 0 for a row of 0."""
    size = rows.double().square().sum(-1)
    error = (rows.double() - made.double()).square().sum(-1)
    return torch.where(size > 0, error / size, 0)
