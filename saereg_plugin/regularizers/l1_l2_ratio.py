"""Ratio of the L1 to the L2 norm of activations (arXiv 2606.27321)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saereg_plugin.kernels.blocks import row_blocks
from saereg_plugin.registry import register_regularizer
from saereg_plugin.regularizers.activation_penalty import ActivationPenalty

_LEAST_NORM = 1e-12
"""A row below this norm counts as zero: its squares are near the end of float32's range."""


@register_regularizer("l1_l2_ratio")
@dataclass(frozen=True, kw_only=True)
class L1L2Ratio(ActivationPenalty):
    """
    ``coefficient * mean_i || mu * a_i ||_1 / || mu * a_i ||_2``, ``a = relu(hidden_pre)``.

    arXiv 2606.27321, the L1/L2 ratio: between 1 (one latent positive) and the root of
    their number, and unchanged if a row is scaled. A row with ``mu * a_i = 0`` counts 0
    and has the gradient 0. With ``rescale_acts_by_decoder_norm`` a is multiplied by the
    norms of the decoder's rows, as in the saved SAE, and the gradient reaches the norms.

    Args:
        mask: ``batch_active`` | ``none``; mu above.
        reduction: ``mean`` | ``sum`` over the rows of the batch.
    """

    reason_on_standard = (
        "there z = a, so the mask changes nothing (mu_j = 0 means a_ij = 0 for every "
        "row i) and nothing is left out for the ratio to act on: it would be a second "
        "sparsity penalty of z in place of SAELens' L1, another method."
    )

    @override
    def sum_over_rows(
        self, hidden_pre: torch.Tensor, acts: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        return l1_l2_ratio(hidden_pre, mask)


def l1_l2_ratio(hidden_pre: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """
    Return ``sum_i ||mu a_i||_1 / ||mu a_i||_2`` with ``a = relu(hidden_pre)``.

    Args:
        hidden_pre: pre-activations, [batch, d_sae].
        mask: mu, bool [d_sae]; None for all.

    Returns:
        A scalar in float32 or better.
    """
    return cast(torch.Tensor, _L1L2Ratio.apply(hidden_pre, mask))


class _L1L2Ratio(torch.autograd.Function):
    """
    The sum block by block: nothing of size [batch, d_sae] but the gradient itself.

    With s and n the norms of a row, ``d(s / n) / d a_j = (1 - (s / n) a_j / n) / n``
    where ``mu_j a_j > 0``.
    """

    @override
    @staticmethod
    def forward(
        ctx: Any, hidden_pre: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        dtype = torch.promote_types(hidden_pre.dtype, torch.float32)
        lengths, ratios = [], []
        for (pre,) in row_blocks(hidden_pre):
            acts = _activations(pre, mask, dtype)
            length = torch.linalg.vector_norm(acts, dim=-1)
            length = torch.where(length >= _LEAST_NORM, length, torch.inf)
            lengths.append(length)
            ratios.append(acts.sum(dim=-1) / length)
        length, ratio = torch.cat(lengths), torch.cat(ratios)
        ctx.save_for_backward(hidden_pre, mask, length, ratio)
        return ratio.sum()

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden_pre, mask, length, ratio = ctx.saved_tensors
        result = torch.empty_like(hidden_pre)
        columns = (length[:, None], ratio[:, None])
        start = 0
        for part, pre in row_blocks(result, hidden_pre):
            n, r = (column[start : start + pre.shape[0]] for column in columns)
            start += pre.shape[0]
            acts = _activations(pre, mask, length.dtype)
            slope = torch.where(acts > 0, (1 - r * (acts / n)) / n, 0.0)
            part.copy_(slope.mul_(grads[0]))
        return result, None


def _activations(
    pre: torch.Tensor, mask: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Return ``mu * relu(pre)``."""
    acts = pre.to(dtype).relu()
    return acts if mask is None else acts * mask
