"""Encoding and decoding of selected latents, with gradients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saereg_plugin.kernels.selected import Selected, select_rows, transposed


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


@dataclass(frozen=True)
class ActiveLatents:
    """
    The latent activations of a sparse step.

    Attributes:
        selected: the active (row, latent) pairs.
        acts: their activations, [n], with gradients; not rescaled.
        W_dec: the decoder if the SAE has ``rescale_acts_by_decoder_norm``, else None.
    """

    selected: Selected
    acts: torch.Tensor
    W_dec: torch.Tensor | None

    @cached_property
    def values(self) -> torch.Tensor:
        """Activations as the SAE sees them, rescaled if it rescales, [n], with gradients."""
        if self.W_dec is None:
            return self.acts
        return self.acts * self.W_dec.norm(dim=-1)[self.selected.latents]


@dataclass(frozen=True)
class WiderSelection:
    """
    The m largest pre-activations of each row, m above k.

    Attributes:
        active: the m latents of every row, with gradients.
        ranking: values by which they were selected, [batch, m].
    """

    active: ActiveLatents
    ranking: torch.Tensor

    def of_k(self, k: int) -> ActiveLatents:
        """Return the k largest of each row, at most m; the gradients reach ``active``."""
        batch, m = self.ranking.shape
        if k == m:
            return self.active
        columns = self.ranking.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
        selected = self.active.selected
        latents = selected.latents.view(batch, m).gather(1, columns)
        acts = self.active.acts.view(batch, m).gather(1, columns)
        return ActiveLatents(
            select_rows(latents, selected.d_sae), acts.reshape(-1), self.active.W_dec
        )


class NestedDecode(torch.autograd.Function):
    """
    Reconstructions from the first ``widths[i]`` latents, for each i: [levels, batch, d_in].

    ``z @ W_dec + b_dec`` is the case of one level of width d_sae; Matryoshka SAEs
    have more (arXiv 2503.17547).

    Arguments of ``apply``:
        acts: activations of the selected pairs, [n].
        W_dec: [d_sae, d_in].
        b_dec: [d_in].
        selected: the pairs.
        widths: ascending; the last is d_sae.
    """

    @override
    @staticmethod
    def forward(
        ctx: Any,
        acts: torch.Tensor,
        W_dec: torch.Tensor,
        b_dec: torch.Tensor,
        selected: Selected,
        widths: tuple[int, ...],
    ) -> torch.Tensor:
        ctx.selected, ctx.widths = selected, widths
        ctx.save_for_backward(acts, W_dec)
        levels = []
        decoded = b_dec
        for mask, part in _levels(selected, widths):
            decoded = (
                part.weighted_rows(acts if mask is None else acts[mask], W_dec)
                + decoded
            )
            levels.append(decoded)
        return torch.stack(levels) if len(levels) > 1 else levels[0][None]

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        acts, W_dec = ctx.saved_tensors
        selected: Selected = ctx.selected
        # a latent of level i takes part in the reconstructions from i on
        grad = grads[0].flip(0).cumsum(0).flip(0) if len(grads[0]) > 1 else grads[0]
        grad_acts = torch.empty_like(acts)
        grad_W, start = [], 0
        for level, (mask, part) in enumerate(_levels(selected, ctx.widths)):
            dots = part.dots(grad[level], W_dec)
            if mask is None:
                grad_acts = dots
            else:
                grad_acts[mask] = dots
            end = ctx.widths[level]
            grad_W.append(
                selected.weighted_latents(acts, grad[level], start=start, end=end)
            )
            start = end
        whole = grad_W[0] if len(grad_W) == 1 else torch.cat(grad_W)
        return grad_acts, whole, grad[0].sum(0), None, None


def _levels(
    selected: Selected, widths: tuple[int, ...]
) -> list[tuple[torch.Tensor | None, Selected]]:
    """Return the pairs that each level adds, with their mask (None for all)."""
    if len(widths) == 1:
        return [(None, selected)]
    bounds = torch.tensor(widths, device=selected.latents.device)
    level = torch.bucketize(selected.latents, bounds, right=True)
    masks = [level == number for number in range(len(widths))]
    return [(mask, selected.keep(mask)) for mask in masks]
