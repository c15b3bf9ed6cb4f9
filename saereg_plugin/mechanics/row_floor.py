"""A least length for decoder rows whose norm SAELens divides by."""

from __future__ import annotations

from typing import Any

import torch
from sae_lens import TrainingSAE
from typing_extensions import override

from saereg_plugin.component import Component
from saereg_plugin.kernels.blocks import row_norms

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
    """Its place among the mechanics: after all that change rows."""
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
        """Lengthen the rows under ``below`` times the floor; return how many they are."""
        rows, encoder = self.sae.W_dec, self.sae.W_enc
        floor = least_norm(rows)
        short = (row_norms(rows) < below * floor).nonzero().squeeze(1)
        if len(short) > 0:
            kept = directions(rows[short], encoder[:, short].T, short)
            rows[short] = (floor * kept).to(rows.dtype)
        return len(short)


def least_norm(rows: torch.Tensor) -> float:
    """Return the floor for rows [n, d]: ``FLOOR``, or what their data type can still hold."""
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
