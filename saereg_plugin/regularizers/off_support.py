"""L1 on activations that the sparsifier drops (arXiv 2606.27321)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saereg_plugin.kernels.blocks import row_blocks
from saereg_plugin.registry import register_regularizer
from saereg_plugin.regularizers.activation_penalty import ActivationPenalty


@register_regularizer("off_support_l1")
@dataclass(frozen=True, kw_only=True)
class OffSupportL1(ActivationPenalty):
    """
    ``coefficient * mean_i || mu * (a_i - z_i) ||_1``, with ``a = relu(hidden_pre)``.

    arXiv 2606.27321, the off-support L1: what a latent would have contributed where
    the sparsifier left it out. The support (where ``z > 0``) is a constant of the
    step: no gradient reaches JumpReLU's threshold or the gate through it. With
    ``rescale_acts_by_decoder_norm`` both a and z are multiplied by the norms of the
    decoder's rows, as in the saved SAE, and the gradient reaches the norms. The metric
    ``share`` is the share of dropped activation in all activation.

    Args:
        mask: ``batch_active`` | ``none``; mu above.
        reduction: ``mean`` | ``sum`` over the rows of the batch.
    """

    reason_on_standard = (
        "there z = relu(hidden_pre) = a, so a - z and its gradient are 0 everywhere."
    )

    @override
    def sum_over_rows(
        self, hidden_pre: torch.Tensor, acts: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        return off_support_l1(hidden_pre, acts, mask)

    @override
    def further_metrics(
        self, acts: torch.Tensor, total: torch.Tensor
    ) -> dict[str, torch.Tensor | float]:
        kept = acts.sum(dtype=total.dtype)
        return {"share": total / (total + kept).clamp(min=1e-30)}


def off_support_l1(
    hidden_pre: torch.Tensor, acts: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """
    Return ``sum_ij mu_j |a_ij - z_ij|`` with ``a = relu(hidden_pre)``, in float32 or better.

    Args:
        hidden_pre: pre-activations, [batch, d_sae].
        acts: z, equal to a on its support and 0 off it, [batch, d_sae].
        mask: mu, bool [d_sae]; None for all.
    """
    return cast(torch.Tensor, _OffSupportL1.apply(hidden_pre, acts, mask))


class _OffSupportL1(torch.autograd.Function):
    """The sum block by block: nothing of size [batch, d_sae] but the gradient itself."""

    @override
    @staticmethod
    def forward(
        ctx: Any,
        hidden_pre: torch.Tensor,
        acts: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden_pre, acts, mask)
        dtype = torch.promote_types(hidden_pre.dtype, torch.float32)
        total = hidden_pre.new_zeros((), dtype=dtype)
        for pre, kept in row_blocks(hidden_pre, acts):
            total += (pre * _dropped(pre, kept, mask)).sum(dtype=dtype)
        return total

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden_pre, acts, mask = ctx.saved_tensors
        result = torch.empty_like(hidden_pre)
        for part, pre, kept in row_blocks(result, hidden_pre, acts):
            part.copy_(_dropped(pre, kept, mask)).mul_(grads[0])
        return result, None, None


def _dropped(
    pre: torch.Tensor, acts: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Return where a latent was positive and left out, bool."""
    dropped = (pre > 0) & (acts == 0)
    return dropped if mask is None else dropped & mask
