"""Reconstruction of activations: R2 about the mean vector, per dimension, NMSE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReconstructionSums:
    """
    Sums over rows x and their reconstructions x_hat; those of two sets of rows add up.

    Attributes:
        rows: number of rows.
        total: sum of x, float64 [d_in].
        square: sum of x^2, float64 [d_in].
        residual: sum of (x - x_hat)^2, float64 [d_in].
        relative: sum of ||x - x_hat||^2 / ||x||^2 over rows that are not 0.
        nonzero: number of those rows.
    """

    rows: int
    total: Tensor
    square: Tensor
    residual: Tensor
    relative: float
    nonzero: int

    def __add__(self, other: ReconstructionSums) -> ReconstructionSums:
        return self._with(other, 1)

    def __sub__(self, other: ReconstructionSums) -> ReconstructionSums:
        return self._with(other, -1)

    def _with(self, other: ReconstructionSums, sign: int) -> ReconstructionSums:
        return ReconstructionSums(
            self.rows + sign * other.rows,
            self.total + sign * other.total,
            self.square + sign * other.square,
            self.residual + sign * other.residual,
            self.relative + sign * other.relative,
            self.nonzero + sign * other.nonzero,
        )

    @property
    def spread(self) -> Tensor:
        """Sum of (x - mean x)^2 per dimension, float64 [d_in]."""
        return self.square - self.total.square() / max(self.rows, 1)

    def r2(self) -> float:
        """
        Return ``1 - sum ||x - x_hat||^2 / sum ||x - mean x||^2``, mean x a vector.

        NaN where x does not vary.
        """
        return _one_minus(self.residual.sum(), self._varying().sum())

    def r2_per_dimension(self) -> float:
        """
        Return the mean over dimensions of each one's own R2.

        Dimensions that do not vary are left out; NaN if none varies.
        """
        spread = self._varying()
        varies = spread > 0
        if not bool(varies.any()):
            return torch.nan
        return float((1 - self.residual[varies] / spread[varies]).mean())

    def _varying(self) -> Tensor:
        # below this a difference of the two sums is rounding
        tiny = 1e-12 * self.square
        return torch.where(self.spread > tiny, self.spread, 0)

    def nmse(self) -> float:
        """Return the mean of ``||x - x_hat||^2 / ||x||^2`` over rows that are not 0."""
        return self.relative / self.nonzero if self.nonzero else torch.nan


def _one_minus(residual: Tensor, spread: Tensor) -> float:
    return 1 - float(residual / spread) if float(spread) > 0 else torch.nan


def reconstruction_sums(x: Tensor, x_hat: Tensor) -> ReconstructionSums:
    """Sum over rows x and reconstructions x_hat, both [rows, d_in]."""
    exact = x.double()
    residual = (exact - x_hat.double()).square()
    size = exact.square().sum(1)
    counts = size > 0
    return ReconstructionSums(
        rows=len(x),
        total=exact.sum(0),
        square=exact.square().sum(0),
        residual=residual.sum(0),
        relative=float((residual.sum(1)[counts] / size[counts]).sum()),
        nonzero=int(counts.sum()),
    )


def latent_directions(sae: Any) -> Tensor:
    """
    Return what each latent of an SAE adds to the output per unit of activation, [d_sae, d_in].
    """
    rows = sae.W_dec.detach()
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        # decode divides the activation by the norm of its row
        tiny = torch.finfo(torch.float32).tiny
        return rows / rows.norm(dim=1, keepdim=True).clamp(min=tiny)
    return rows
