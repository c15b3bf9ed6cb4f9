"""Decoder rows of norm 1 throughout training (arXiv 2309.08600, 2603.04198)."""

from __future__ import annotations

from typing import Any

import torch
from sae_lens import TrainingSAE
from torch import nn
from typing_extensions import override

from saereg_plugin.component import Component
from saereg_plugin.kernels.blocks import row_blocks, row_norms


class UnitNormDecoder(Component):
    """
    Keep every row of W_dec [d_sae, d_in] at norm 1.

    The part of a row's gradient along the row only changes its length, so it is
    removed before Adam sees it; after Adam's step the row is renormalised, to 1e-7 in
    float32 and as exactly as bfloat16 can say it (4e-3).
    """

    order = 45
    """Its place among the mechanics; see ``build_components``."""

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
