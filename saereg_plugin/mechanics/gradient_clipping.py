"""Clipping of the gradient's norm below SAELens' 1.0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from typing_extensions import override

from saereg_plugin.component import Component
from saereg_plugin.config import MechanicConfig, number
from saereg_plugin.kernels.blocks import row_norms
from saereg_plugin.registry import register_mechanic

_EPSILON = 1e-6
"""Added to the norm by torch's ``clip_grad_norm_``."""
_ROUNDING = 1e-4


@register_mechanic("gradient_clipping")
@dataclass(frozen=True, kw_only=True)
class GradientClipping(MechanicConfig):
    """
    Clip the norm of the gradient of all parameters together at ``max_norm``.

    SAELens' trainers clip at 1.0 and cannot be told otherwise, so this acts on what they
    leave, before the optimiser's step. The result is that of
    ``clip_grad_norm_(parameters, max_norm)`` in their place: see ``clip_factor``.

    Args:
        max_norm: above 0 and below 1. TemporalSAE uses 0.1.
    """

    order: ClassVar[int] = 30

    max_norm: float = number(
        0.1,
        lambda v: 0 < v < 1,
        "a number above 0 and below 1 (SAELens itself clips at 1.0)",
    )

    @override
    def build(self, sae_cfg: Any, *, seed: int) -> GradientClippingModule:
        return GradientClippingModule(self)


class GradientClippingModule(Component):
    """The clipping in training."""

    def __init__(self, cfg: GradientClipping):
        super().__init__(label=cfg.name)
        self.max_norm = cfg.max_norm

    @override
    def before_step(self, lr: float) -> None:
        gradients = [
            parameter.grad
            for parameter in self.sae.parameters()
            if parameter.grad is not None
        ]
        if not gradients:
            return
        factor = clip_factor(total_norm(gradients), self.max_norm)
        for gradient in gradients:
            gradient.mul_(factor.to(gradient.device))


def total_norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Return the norm of all entries of all tensors, in float32 or better."""
    rows = [row_norms(each.reshape(-1, each.shape[-1])) for each in tensors]
    device = rows[0].device
    norms = torch.stack([torch.linalg.vector_norm(row).to(device) for row in rows])
    return torch.linalg.vector_norm(norms)


def clip_factor(norm: torch.Tensor, max_norm: float) -> torch.Tensor:
    """
    Return the factor that clips at ``max_norm`` < 1 what was clipped at 1 before.

    torch clips a gradient of norm n at c with the factor ``min(1, c / (n + e))``, e = 1e-6.
    If ``n + e <= 1``, clipping at 1 changed nothing and that factor is due now. Else the
    norm is now ``m = n / (n + e)``, and the factor due is ``c``, since
    ``c * (1 / (n + e))`` is the direct clip. The two cases are told apart by
    ``m + e > 1``, which is the same as ``n + e > 1``: so the factor is
    ``min(1, c / min(m + e, 1))``. A norm clearly above 1 was not clipped before, and is
    clipped directly.

    Args:
        norm: of the gradient as it is now, a scalar.
        max_norm: c.
    """
    total = norm + _EPSILON
    clipped_before = (total > 1) & (total < 1 + _ROUNDING)
    total = torch.where(clipped_before, torch.ones_like(total), total)
    return (max_norm / total).clamp(max=1.0)
