"""Auxiliary loss in time and memory of the dead latents only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saereg_plugin.kernels.top_k import top_k

_CHUNK_ENTRIES = 2**22


@dataclass(frozen=True)
class DeadLatents:
    """
    The dead latents of an auxiliary loss.

    Attributes:
        latents: the dead latents, int64 [m].
        k: number of latents that reconstruct each row's residual.
        norms: of the decoder's rows, [d_sae], by which pre-activations are ranked,
            or None for ones.
        dtype: of the matrix products.
        rectified: whether they answer with ``relu`` of their pre-activations.
    """

    latents: torch.Tensor
    k: int
    norms: torch.Tensor | None
    dtype: torch.dtype
    rectified: bool = False


class AuxKLoss(torch.autograd.Function):
    """
    Mean squared error of the residual as the k largest dead latents reconstruct it.

    AuxK of arXiv 2406.04093, appendix A.2, without its scale. The loss is a scalar, so
    its gradients are made in the forward pass, chunk by chunk, and scaled in the backward
    pass: nothing of the size batch x dead latents is kept.

    Arguments of ``apply``:
        x: [batch, d_in].
        W_enc: [d_in, d_sae].
        b_enc: [d_sae].
        W_dec: [d_sae, d_in].
        b_dec: [d_in], or None if it is not subtracted from the input.
        residual: what to reconstruct, [batch, d_in]; a constant.
        dead: the dead latents.
    """

    @override
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        W_dec: torch.Tensor,
        b_dec: torch.Tensor | None,
        residual: torch.Tensor,
        dead: DeadLatents,
    ) -> torch.Tensor:
        sae_in = x if b_dec is None else x - b_dec
        work = _Work(W_enc, b_enc, W_dec, dead)
        batch = x.shape[0]
        rows = max(1, _CHUNK_ENTRIES // dead.latents.numel())
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        for start in range(0, batch, rows):
            chunk = slice(start, start + rows)
            grad_hidden = work.add(sae_in[chunk], residual[chunk], batch)
            if grad_x is not None:
                grad_x[chunk] = grad_hidden @ work.encoder.to(grad_hidden.dtype).T
        ctx.dead, ctx.shapes = dead, (W_enc.shape, W_dec.shape)
        grad_center = None if b_dec is None else -(work.encoder_full @ work.grad_bias)
        ctx.save_for_backward(
            grad_x, work.grad_encoder, work.grad_bias, work.grad_decoder, grad_center
        )
        return work.loss / batch

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grads
        grad_x, encoder, bias, decoder, center = ctx.saved_tensors
        latents = ctx.dead.latents
        shape_enc, shape_dec = ctx.shapes
        return (
            None if grad_x is None else grad_x * grad,
            encoder.new_zeros(shape_enc).index_copy_(1, latents, encoder * grad),
            bias.new_zeros(shape_dec[0]).index_copy_(0, latents, bias * grad),
            decoder.new_zeros(shape_dec).index_copy_(0, latents, decoder * grad),
            None if center is None else center * grad,
            None,
            None,
        )


class _Work:
    """Weights of the dead latents, and the sums over chunks of rows."""

    def __init__(
        self,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        W_dec: torch.Tensor,
        dead: DeadLatents,
    ):
        latents = dead.latents
        self.k = dead.k
        self.rectified = dead.rectified
        self.encoder_full = W_enc[:, latents]
        self.encoder = self.encoder_full.to(dead.dtype)
        self.decoder = W_dec[latents].to(dead.dtype)
        self.bias = b_enc[latents]
        self.norms = None if dead.norms is None else dead.norms[latents]
        self.loss = b_enc.new_zeros(())
        self.grad_encoder = torch.zeros_like(self.encoder_full)
        self.grad_decoder = torch.zeros_like(self.decoder, dtype=W_dec.dtype)
        self.grad_bias = torch.zeros_like(self.bias)

    def add(
        self, sae_in: torch.Tensor, residual: torch.Tensor, batch: int
    ) -> torch.Tensor:
        """Add a chunk's loss and gradients; return the gradient of its pre-activations."""
        inputs = sae_in.to(self.encoder.dtype)
        hidden = inputs @ self.encoder + self.bias
        kept = self._kept(hidden)
        acts = hidden if kept is None else hidden * kept
        error = acts.to(self.decoder.dtype) @ self.decoder - residual
        self.loss += error.square().sum()
        grad_out = (error * (2 / batch)).to(self.decoder.dtype)
        grad_hidden = grad_out @ self.decoder.T
        if kept is not None:
            grad_hidden *= kept
        self.grad_decoder += acts.to(grad_out.dtype).T @ grad_out
        self.grad_encoder += inputs.T @ grad_hidden
        self.grad_bias += grad_hidden.sum(0)
        return grad_hidden.to(self.bias.dtype)

    def _kept(self, hidden: torch.Tensor) -> torch.Tensor | None:
        """Return which latents answer, bool [rows, m], or None for all."""
        positive = hidden > 0 if self.rectified else None
        if self.k >= hidden.shape[1]:
            return positive
        ranked = hidden if self.norms is None else hidden * self.norms
        columns = top_k(ranked, self.k)[1]
        chosen = torch.zeros_like(hidden, dtype=torch.bool).scatter_(1, columns, True)
        return chosen if positive is None else chosen & positive
