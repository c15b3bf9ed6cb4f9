"""Squared differences between the latent activations of neighbouring rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saereg_plugin.kernels import ActiveLatents

_ENTRIES = 2**18


def squared_differences(acts: torch.Tensor, length: int) -> torch.Tensor:
    """
    Return ``sum || z_t - z_(t-1) ||^2`` over neighbouring rows of the same sequence.

    Args:
        acts: z, sequences one after the other, [n length, d_sae].
        length: rows of a sequence; no pair crosses from one to the next.

    Returns:
        A scalar in float32 or better.
    """
    total = _SquaredDifferences.apply(acts, length)
    assert isinstance(total, torch.Tensor)
    return total


class _SquaredDifferences(torch.autograd.Function):
    """The sum block by block: nothing of size [batch, d_sae] but the gradient itself."""

    @override
    @staticmethod
    def forward(ctx: Any, acts: torch.Tensor, length: int) -> torch.Tensor:
        ctx.save_for_backward(acts)
        ctx.length = length
        total = acts.new_zeros((), dtype=_float_of(acts))
        for _, difference in _differences(acts, length):
            total += difference.square().sum()
        return total

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (acts,) = ctx.saved_tensors
        result = torch.zeros_like(acts)
        for start, difference in _differences(acts, ctx.length):
            end = start + difference.shape[0]
            difference.mul_(2 * grads[0])
            result[start:end] -= difference
            result[start + 1 : end + 1] += difference
        return result, None


def _differences(acts: torch.Tensor, length: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield first rows and ``z_(t+1) - z_t`` of blocks of rows, 0 from one sequence to the next."""
    n_pairs = acts.shape[0] - 1
    block = max(1, n_pairs)
    if acts.device.type == "cpu":
        # what several operations make of a block stays in the cache
        block = max(1, _ENTRIES // acts.shape[1])
    dtype = _float_of(acts)
    for start in range(0, n_pairs, block):
        end = min(start + block, n_pairs)
        difference = acts[start + 1 : end + 1].to(dtype) - acts[start:end]
        first_crossing = (length - 1 - start) % length
        difference[first_crossing::length] = 0
        yield start, difference


def _float_of(acts: torch.Tensor) -> torch.dtype:
    return torch.promote_types(acts.dtype, torch.float32)


def squared_differences_of_active(active: ActiveLatents, length: int) -> torch.Tensor:
    """
    Return ``squared_differences`` of a sparse step, in time of its selected pairs.

    A latent selected in one of two neighbouring rows only contributes its square.

    Args:
        active: the selected (row, latent) pairs, rows as in ``squared_differences``.
        length: rows of a sequence.
    """
    selected, values = active.selected, active.values
    if values.numel() == 0:
        return values.sum()
    position = selected.rows % length
    # ascending, since pairs are sorted by row and then by latent
    keys = selected.rows * selected.d_sae + selected.latents
    wanted = keys + selected.d_sae
    found = torch.searchsorted(keys, wanted).clamp_(max=keys.numel() - 1)
    has_next = position < length - 1
    again = has_next & (keys[found] == wanted)
    following = torch.where(again, values[found], 0.0)
    ends = (following - values)[has_next].square().sum()
    is_new = position > 0
    is_new[found[again]] = False
    return ends + values[is_new].square().sum()
