"""Norms of decoder rows: a floor, or norm 1."""

from __future__ import annotations

from typing import Any

import torch
from sae_lens import TrainingSAE
from torch import nn
from typing_extensions import override

from saereg_plugin.component import Component
from saereg_plugin.kernels.blocks import row_blocks, row_norms

FLOOR = 1e-6
"""Least norm of a row: the latent adds a millionth of its activation to a reconstruction."""


class RowFloor(Component):
    """
    Keep every row of W_dec [d_sae, d_in] at norm ``FLOOR`` or more.

    With ``rescale_acts_by_decoder_norm`` SAELens divides by the norms of the rows, and a
    single row of norm 0 makes every reconstruction NaN. Adam under a weight penalty shrinks
    rows of unused latents to exactly 0 within a thousand steps.

    A shorter row is lengthened and keeps its direction. A row that is exactly 0 has no
    direction; it takes that of its encoder column (see ``directions``).
    """

    order = 60
    """After all mechanics that change rows."""
    counts = ("held",)

    def __init__(self, *, label: str):
        super().__init__(label=label)
        self.held = 0

    @override
    def setup(self, sae: TrainingSAE[Any]) -> None:
        # half: a row at the floor may be short of it by rounding, and a resumed run must
        # not move it
        self._hold(below=0.5)

    @override
    def metrics(self) -> dict[str, torch.Tensor | float]:
        return {"rows": float(self.held)}

    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.held = self._hold(below=1.0)

    @torch.no_grad()
    def _hold(self, *, below: float) -> int:
        """Lengthen the rows under ``below`` times the floor; return their number."""
        rows, encoder = self.sae.W_dec, self.sae.W_enc
        floor = least_norm(rows)
        short = (row_norms(rows) < below * floor).nonzero().squeeze(1)
        if len(short) > 0:
            kept = directions(rows[short], encoder[:, short].T, short)
            rows[short] = (floor * kept).to(rows.dtype)
        return len(short)


def least_norm(rows: torch.Tensor) -> float:
    """Return the floor for rows [n, d]: ``FLOOR``, or the least norm of their data type."""
    return max(FLOOR, torch.finfo(rows.dtype).tiny * rows.shape[1] ** 0.5)


def directions(
    rows: torch.Tensor, fallback: torch.Tensor, latents: torch.Tensor
) -> torch.Tensor:
    """
    Return unit vectors [n, d] along ``rows``, in float32 or better.

    Where a row is 0 the vector is that of ``fallback`` [n, d], and where that is 0 as well
    a unit vector of the standard basis, numbered by the latent.

    Args:
        rows: [n, d].
        fallback: [n, d].
        latents: numbers of the latents, int64 [n].
    """
    basis = torch.zeros_like(rows)
    basis[torch.arange(len(rows), device=rows.device), latents % rows.shape[1]] = 1
    found = basis
    for candidate in (fallback, rows):
        largest = candidate.abs().amax(dim=1, keepdim=True)
        found = torch.where(largest > 0, candidate, found)
    dtype = torch.promote_types(rows.dtype, torch.float32)
    found = found.to(dtype)
    # scaled first: the squares of a row near the end of the range would be 0
    found = found / found.abs().amax(dim=1, keepdim=True)
    return found / row_norms(found)[:, None]


class UnitNormDecoder(Component):
    """
    Keep every row of W_dec [d_sae, d_in] at norm 1.

    The part of a row's gradient along the row only changes its length, so it is
    removed before Adam sees it; after Adam's step the row is renormalised, to 1e-7 in
    float32 and as exactly as bfloat16 can say it (4e-3).
    """

    order = 45
    """See ``build_components``."""

    @override
    def setup(self, sae: TrainingSAE[Any]) -> None:
        # A checkpoint from elsewhere may not have unit rows yet. Rows that have norm 1 are
        # left alone: normalising them again would move a resumed run by the last bit.
        rows = sae.W_dec
        with torch.no_grad():
            norms = row_norms(rows)
            off = (norms - 1).abs() > 8 * torch.finfo(rows.dtype).eps
            if off.any():
                rows[off] = normalize_rows_(rows[off])

    @override
    def gradient(self, name: str, parameter: nn.Parameter) -> None:
        if name == "W_dec" and parameter.grad is not None:
            project_to_tangent_(parameter.grad, parameter)

    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        normalize_rows_(self.sae.W_dec)


def project_to_tangent_(gradient: torch.Tensor, rows: torch.Tensor) -> None:
    """Remove from each row of ``gradient`` [n, d] its component along the unit row."""
    for part, unit in row_blocks(gradient, rows):
        along = (part * unit).sum(dim=-1, keepdim=True)
        part.addcmul_(unit, along, value=-1)


def normalize_rows_(rows: torch.Tensor) -> torch.Tensor:
    """Scale each row [n, d] to norm 1 in place and return them; a zero row stays zero."""
    norms = row_norms(rows)[:, None]
    return rows.div_(norms.clamp(min=torch.finfo(torch.float32).tiny))
