"""Pre-activations of the selected latents, with gradients only through them."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saereg_plugin.kernels.selected import Selected, transposed


class SelectedPreActivations(torch.autograd.Function):
    """
    ``h = (x - b_dec) . enc_j + b_enc_j`` for the selected pairs, [n].

    Arguments of ``apply``:
        x: [batch, d_in].
        W_enc: [d_in, d_sae].
        b_enc: [d_sae].
        b_dec: [d_in], or None if it is not subtracted from the input.
        selected: the pairs.
        values: h where the selection computed it already, [n], or None.
    """

    @override
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        b_dec: torch.Tensor | None,
        selected: Selected,
        values: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.selected = selected
        ctx.save_for_backward(x, W_enc, b_dec)
        if values is not None:
            return values.clone()
        sae_in = x if b_dec is None else x - b_dec
        dots = selected.dots(sae_in, transposed(W_enc))
        return dots + b_enc[selected.latents]

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grads
        x, W_enc, b_dec = ctx.saved_tensors
        selected: Selected = ctx.selected
        sae_in = x if b_dec is None else x - b_dec
        grad_bias = selected.latent_sums(grad)
        return (
            selected.weighted_rows(grad, transposed(W_enc))
            if ctx.needs_input_grad[0]
            else None,
            selected.weighted_columns(grad, sae_in),
            grad_bias,
            None if b_dec is None else -(W_enc @ grad_bias),
            None,
            None,
        )
