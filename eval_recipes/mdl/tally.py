"""Sparse codes of one SAE along held-out inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from sae_lens import SAE
from torch import Tensor

from saereg_plugin.metrics import Codes, latent_directions

# Values of one chunk of latent activations: 2^23 float32 are 32 MiB, held a few times.
_CHUNK_VALUES = 1 << 23

BYTES_PER_PAIR = 32
"""Memory of an activation along the pass: latent, value and product, and their copy when joined."""

_LINEAR = 1e-3


@dataclass(frozen=True)
class HeldOutCodes:
    """
    The activations z of an SAE on N rows x, and their part in the reconstruction.

    The reconstruction is ``x_hat = offset + f sum_j z_j d_j``. The factor f is 1 except where the
    SAE normalises its input row by row.

    Attributes:
        codes: activations that are not 0, row by row.
        products: ``f <x - x_hat, d_j>`` of each pair, [pairs].
        factors: f of each row, [rows].
        residual: ``||x - x_hat||^2`` of each row, float64 [rows].
        contexts: context (or other input) of each row, ascending, int64 [rows].
        directions: d_j, [d_sae, d_in].
        n_contexts: number of contexts.
    """

    codes: Codes
    products: Tensor
    factors: Tensor
    residual: Tensor
    contexts: Tensor
    directions: Tensor
    n_contexts: int

    @property
    def d_in(self) -> int:
        """Dimensions of a row."""
        return self.directions.shape[1]

    @cached_property
    def norms(self) -> Tensor:
        """``||d_j||``, float64 [d_sae]."""
        return self.directions.double().norm(dim=1)

    @cached_property
    def pair_contexts(self) -> Tensor:
        """Context of each pair, int64 [pairs]."""
        return self.contexts[self.codes.images]

    def gains(self) -> Tensor:
        """
        Return by how much each activation's removal raises its row's squared error.

        With ``z_j`` set to 0 the residual r becomes ``r + f z_j d_j``, so the rise is
        ``2 z_j f <r, d_j> + f^2 z_j^2 ||d_j||^2``, exactly. float64 [pairs].
        """
        z = self.codes.values.double()
        f = self.factors.double()[self.codes.images]
        norms = self.norms[self.codes.latents]
        return 2 * z * self.products.double() + (f * z * norms).square()

    def residual_with(self, values: Tensor) -> Tensor:
        """Return ``||x - x_hat||^2`` of each row with other activations, [pairs] -> [rows]."""
        change = (values.double() - self.codes.values.double()).float()
        selected = self.codes.selected
        moved = selected.weighted_rows(change, self.directions).double().square().sum(1)
        cross = torch.zeros(len(self.codes), dtype=torch.float64)
        cross.index_add_(0, self.codes.images, change.double() * self.products.double())
        return self.residual - 2 * cross + self.factors.double().square() * moved


class CodeTally:
    """Codes of one SAE; lists hold one entry a chunk of rows."""

    def __init__(self, sae: SAE[Any]) -> None:
        if sae.hook_z_reshaping_mode:
            # the held-out pass has already joined the heads
            sae.turn_off_forward_pass_hook_z_reshaping()
        self.sae = sae
        self.sae_id = ""
        self._directions = latent_directions(sae).float()
        self._parts: list[HeldOutCodes] = []
        self._inputs = 0

    @torch.no_grad()
    def update(self, activations: Tensor, keep: Tensor) -> None:
        """
        Add one batch: activations (inputs, rows, d_in), keep (inputs, rows).

        Raises:
            ValueError: if a reconstruction is not finite, or not linear in the activations.
        """
        numbers = torch.arange(len(keep))[:, None] + self._inputs
        contexts = numbers.expand(keep.shape)[keep]
        kept = activations[keep.to(activations.device)]
        rows = max(1, _CHUNK_VALUES // len(self._directions))
        for x, of in zip(kept.split(rows), contexts.split(rows), strict=True):
            self._parts.append(self._coded(x, of))
        self._inputs += len(keep)

    def _coded(self, x: Tensor, contexts: Tensor) -> HeldOutCodes:
        found = coded(self.sae, self._directions, x)
        codes, factors = found.codes, found.factors
        residual = x.to(self.sae.dtype).double() - found.x_hat
        dots = codes.selected.dots(residual.float(), self._directions)
        return HeldOutCodes(
            codes=codes.cpu(),
            products=(dots * factors[codes.images]).cpu(),
            factors=factors.cpu(),
            residual=residual.square().sum(1).cpu(),
            contexts=contexts,
            directions=self._directions.cpu(),
            n_contexts=0,
        )

    def result(self) -> HeldOutCodes:
        """
        Return the codes of all inputs.

        Raises:
            ValueError: if no row was read.
        """
        if not self._parts:
            raise ValueError("no held-out row was read")
        parts, self._parts = self._parts, []
        return HeldOutCodes(
            codes=Codes.join([part.codes for part in parts]),
            products=torch.cat([part.products for part in parts]),
            factors=torch.cat([part.factors for part in parts]),
            residual=torch.cat([part.residual for part in parts]),
            contexts=torch.cat([part.contexts for part in parts]),
            directions=parts[0].directions,
            n_contexts=self._inputs,
        )


class Coded(NamedTuple):
    """Codes z of some rows, and their reconstruction ``x_hat = offset + f sum_j z_j d_j``."""

    codes: Codes
    """Float32 activations."""
    x_hat: Tensor
    """Float64 [rows, d_in]."""
    factors: Tensor
    """f of each row, float32 [rows]; 1 except where the SAE normalises row by row."""


def coded(sae: SAE[Any], directions: Tensor, x: Tensor) -> Coded:
    """
    Encode rows x [rows, d_in], on the device of the SAE.

    Args:
        sae: whose heads are joined already.
        directions: d_j, float32 [d_sae, d_in].
        x: activations.

    Raises:
        ValueError: if a reconstruction is not finite, or not linear in the activations.
    """
    x = x.to(sae.dtype)
    z = sae.encode(x)
    z = z.to_dense() if z.is_sparse else z
    x_hat = _decode(sae, z, x)
    if not bool(x_hat.isfinite().all()):
        raise ValueError("its reconstruction holds NaN or infinity")
    codes = Codes.of(z.float())
    sums = codes.selected.weighted_rows(codes.values, directions).double()
    made = x_hat - _decode(sae, torch.zeros_like(z[:1]), x)
    return Coded(codes, x_hat, _factors(made, sums, tolerance=_tolerance(sae.dtype)))


def _decode(sae: SAE[Any], z: Tensor, x: Tensor) -> Tensor:
    # decode uses up the scale that encode stores
    sae.run_time_activation_norm_fn_in(x)
    return sae.decode(z).to(x.device).double()


def _tolerance(dtype: torch.dtype) -> float:
    """Return the share of a reconstruction that may be rounding."""
    return max(_LINEAR, 8 * torch.finfo(dtype).eps)


def _factors(made: Tensor, sums: Tensor, *, tolerance: float) -> Tensor:
    """
    Return f of each row from ``made = f sums``, float32 [rows]; 1 unless rows are normalised.

    Args:
        made: ``x_hat - offset``, float64 [rows, d_in].
        sums: ``sum_j z_j d_j``, the same.
        tolerance: relative error that is rounding.

    Raises:
        ValueError: if a row has no such factor.
    """
    ones = torch.ones(len(sums), dtype=torch.float64, device=sums.device)
    if _agree(made, sums, tolerance):
        return ones.float()
    size = sums.square().sum(1)
    fires = size > 0
    found = (made * sums).sum(1) / torch.where(fires, size, 1)
    factors = torch.where(fires, found, ones)
    if not _agree(made, factors[:, None] * sums, tolerance):
        raise ValueError(
            "its reconstruction is not linear in the activations, so that no latent's part in "
            "it is defined"
        )
    return factors.float()


def _agree(made: Tensor, sums: Tensor, tolerance: float) -> bool:
    # an offset next to which the sums are small is rounded as well
    scale = made.norm(dim=1) + sums.norm(dim=1) + 1e-3
    return bool(((made - sums).norm(dim=1) <= tolerance * scale).all())
