"""Sparsity of what removing a latent does to the logits (arXiv 2406.04093)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

FUTURE_TOKENS = 16
"""T of the source: the token at which a latent is removed, and those after it."""

NORMAL_EFFECT = 2 / math.pi
"""``effect_sparsity`` of independent normal differences, the limit of many numbers."""


def effect_sparsity(differences: Tensor) -> Tensor:
    """
    Return which share of the logits an effect moves, float64 [...].

    arXiv 2406.04093, section 4.5: with x the logit differences of T tokens, each without its
    median over the vocabulary (a constant moves no probability),
    ``(||x||_1 / ||x||_2)^2 / (V T)``. It is 1 / (V T) if a single number differs, 1 if all
    differ by the same amount, and ``NORMAL_EFFECT`` for normal noise. NaN without any effect.

    Args:
        differences: [..., T, V].
    """
    values = differences.double()
    values = values - _median(values)
    first = values.abs().sum(dim=(-2, -1))
    second = values.square().sum(dim=(-2, -1))
    n = values.shape[-1] * values.shape[-2]
    # 0 / 0 is NaN: no effect has no sparsity
    return first.square() / second / n


def _median(values: Tensor) -> Tensor:
    """Return the median over the last axis, the mean of the two middle values of an even n."""
    ordered = values.sort(dim=-1).values
    n = values.shape[-1]
    return (ordered[..., [(n - 1) // 2]] + ordered[..., [n // 2]]) / 2


@torch.no_grad()
def ablation_sparsity(
    logits: Callable[[Tensor], Tensor],
    activations: Tensor,
    places: Tensor,
    contributions: Tensor,
    *,
    future_tokens: int = FUTURE_TOKENS,
    at_once: int = 8,
) -> Tensor:
    """
    Return the effect sparsity of removing a latent at each of its places, float64 [n].

    A latent's figure is the mean over places at which it fires. The same of random directions
    with the lengths of the contributions is what any direction does.

    Args:
        logits: continues the model from activations [contexts, size, d_in] to logits
            [contexts, size, V].
        activations: of the contexts, [contexts, size, d_in].
        places: context and position of each removal, int64 [n, 2].
        contributions: what the latent adds there, ``z_j d_j``, [n, d_in].
        future_tokens: T; near the end of a context there are fewer.
        at_once: contexts in one pass.
    """
    found = torch.full((len(places),), torch.nan, dtype=torch.float64)
    for start in range(0, len(places), at_once):
        part = places[start : start + at_once]
        before = activations[part[:, 0]]
        after = before.clone()
        rows = torch.arange(len(part), device=after.device)
        after[rows, part[:, 1]] -= contributions[start : start + at_once].to(after)
        moved = logits(after) - logits(before)
        for row, place in enumerate(part[:, 1].tolist()):
            found[start + row] = effect_sparsity(
                moved[row, place : place + future_tokens]
            ).cpu()
    return found
