"""From inputs to active latents: dense products in blocks, selection, nothing kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from saereg_plugin.kernels.selected import Selected, select_rows
from saereg_plugin.kernels.top_k import top_k, top_k_of_all

_BLOCK_ENTRIES = 2**24


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

    def blocks(self) -> Iterator[torch.Tensor]:
        """Yield blocks of rows [rows, d_sae]; each is overwritten by the next."""
        batch = self.sae_in.shape[0]
        rows = max(1, min(batch, _BLOCK_ENTRIES // self.d_sae))
        buffer = self._empty(rows)
        operands = self._operands()
        for start in range(0, batch, rows):
            end = min(start + rows, batch)
            block = buffer[: end - start]
            yield self._product(operands, slice(start, end), block)

    def whole(self) -> torch.Tensor:
        """Return the whole matrix [batch, d_sae]."""
        batch = self.sae_in.shape[0]
        return self._product(self._operands(), slice(0, batch), self._empty(batch))

    def _empty(self, rows: int) -> torch.Tensor:
        return self.W_enc.new_empty(rows, self.d_sae, dtype=self.dtype)

    def _operands(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        weight, bias = self.W_enc, self.b_enc
        if self.norms is not None:
            weight, bias = weight * self.norms, bias * self.norms
        return self.sae_in.to(self.dtype), weight.to(self.dtype), bias.to(self.dtype)

    def _product(
        self,
        operands: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        rows: slice,
        out: torch.Tensor,
    ) -> torch.Tensor:
        sae_in, weight, bias = operands
        return torch.addmm(bias, sae_in[rows], weight, out=out)


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
    matrix = pre.whole()
    values, positions = top_k_of_all(matrix, count)
    positions, order = positions.sort()
    rows = positions // pre.d_sae
    counts = torch.bincount(rows, minlength=matrix.shape[0])
    offsets = functional.pad(counts.cumsum(0), (1, 0))
    return Selected(positions % pre.d_sae, offsets, pre.d_sae), values[order]
