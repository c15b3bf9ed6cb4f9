"""Products that touch only the active latents of each row."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch.nn import functional

_TRANSPOSE_BLOCK = 256


@dataclass(frozen=True)
class Selected:
    """
    The active (row, latent) pairs of a batch, sorted by row and then by latent.

    Every product below costs time and memory in proportion to the number of
    pairs n, never to ``batch * d_sae``.

    Attributes:
        latents: latent of each pair, int64 [n].
        row_offsets: pairs of row r are those from ``row_offsets[r]`` to
            ``row_offsets[r + 1]``, int64 [batch + 1].
        d_sae: number of latents.
    """

    latents: torch.Tensor
    row_offsets: torch.Tensor
    d_sae: int

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.row_offsets.numel() - 1

    @cached_property
    def rows(self) -> torch.Tensor:
        """Row of each pair, int64 [n]."""
        counts = self.row_offsets.diff()
        numbers = torch.arange(self.batch, device=self.latents.device)
        return numbers.repeat_interleave(counts, output_size=self.latents.numel())

    @cached_property
    def _by_latent(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # int32 sorts in half the time of int64
        order = self.latents.int().sort(stable=True).indices
        counts = torch.bincount(self.latents, minlength=self.d_sae)
        offsets = functional.pad(counts.cumsum(0), (1, 0))
        return order, self.rows[order], offsets

    def keep(self, mask: torch.Tensor) -> Selected:
        """Return the pairs where ``mask``, bool [n], is True."""
        counts = functional.pad(mask.cumsum(0), (1, 0))
        return Selected(self.latents[mask], counts[self.row_offsets], self.d_sae)

    def weighted_rows(
        self, weights: torch.Tensor, matrix: torch.Tensor
    ) -> torch.Tensor:
        """
        Return ``Z @ matrix``, Z the sparse [batch, d_sae] matrix of the ``weights``.

        Args:
            weights: of each pair, [n].
            matrix: [d_sae, d].

        Returns:
            [batch, d].
        """
        return functional.embedding_bag(
            self.latents,
            matrix,
            self.row_offsets,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )

    def weighted_latents(
        self,
        weights: torch.Tensor,
        matrix: torch.Tensor,
        *,
        start: int = 0,
        end: int | None = None,
    ) -> torch.Tensor:
        """
        Return ``Z[:, start:end].T @ matrix``, Z the sparse matrix of the ``weights``.

        Args:
            weights: of each pair, [n].
            matrix: [batch, d].
            start: first latent.
            end: latent after the last; None for d_sae.

        Returns:
            [end - start, d].
        """
        order, rows, offsets = self._by_latent
        offsets = offsets[start : self.d_sae + 1 if end is None else end + 1]
        pairs = slice(int(offsets[0]), int(offsets[-1]))
        return functional.embedding_bag(
            rows[pairs],
            matrix,
            offsets - offsets[0],
            mode="sum",
            per_sample_weights=weights[order[pairs]],
            include_last_offset=True,
        )

    def weighted_columns(
        self, weights: torch.Tensor, matrix: torch.Tensor
    ) -> torch.Tensor:
        """Return ``matrix.T @ Z``, [d, d_sae]: ``weighted_latents`` transposed."""
        return transposed(self.weighted_latents(weights, matrix))

    def dots(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """
        Return ``left[row] . right[latent]`` for each pair, [n].

        Args:
            left: [batch, d].
            right: [d_sae, d].
        """
        _take_the_beta_warning()
        pattern = torch.sparse_csr_tensor(
            self.row_offsets,
            self.latents,
            left.new_zeros(self.latents.numel()),
            (self.batch, self.d_sae),
            check_invariants=False,
        )
        return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()

    def latent_sums(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the sum of each latent's ``weights`` [n], as [d_sae]."""
        return weights.new_zeros(self.d_sae).index_add_(0, self.latents, weights)

    def to_coo(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sparse [batch, d_sae] matrix of ``values`` [n]."""
        return torch.sparse_coo_tensor(
            torch.stack([self.rows, self.latents]),
            values,
            (self.batch, self.d_sae),
            check_invariants=False,
            is_coalesced=True,
        )


@cache
def _take_the_beta_warning() -> None:
    """Take torch's warning, once per process, that CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.eye(1).to_sparse_csr()


def select_rows(latents: torch.Tensor, d_sae: int) -> Selected:
    """Return the pairs of ``latents`` [batch, k], each row of which is ascending."""
    batch, k = latents.shape
    offsets = torch.arange(0, batch * k + 1, k, device=latents.device)
    return Selected(latents.reshape(-1), offsets, d_sae)


def transposed(matrix: torch.Tensor) -> torch.Tensor:
    """Return the contiguous transpose [b, a] of ``matrix`` [a, b], in memory of its own."""
    if matrix.device.type != "cpu":
        return matrix.T.clone(memory_format=torch.contiguous_format)
    # PyTorch copies a transpose on one thread; strips go to all of them and stay in cache
    result = matrix.new_empty(matrix.shape[1], matrix.shape[0])
    for start in range(0, matrix.shape[0], _TRANSPOSE_BLOCK):
        end = start + _TRANSPOSE_BLOCK
        result[:, start:end].copy_(matrix[start:end].T)
    return result
