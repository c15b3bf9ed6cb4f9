"""Ablation sparsity one number at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

import torch


def effect_sparsity(differences: Sequence[Sequence[float]]) -> float:
    """Return ``(L1 / L2)^2 / (V T)`` of T rows, each without its median."""
    numbers: list[float] = []
    for row in differences:
        middle = median(row)
        numbers += [value - middle for value in row]
    length = math.fsum(value * value for value in numbers)
    if length == 0:
        return math.nan
    return math.fsum(abs(value) for value in numbers) ** 2 / length / len(numbers)


def ablation_sparsity(
    logits: Callable[[torch.Tensor], torch.Tensor],
    activations: torch.Tensor,
    place: tuple[int, int],
    contribution: torch.Tensor,
    future_tokens: int,
) -> float:
    """Return the figure of one removal, in passes over one context."""
    context, position = place
    kept = activations[context : context + 1]
    removed = kept.clone()
    removed[0, position] = removed[0, position] - contribution
    difference = (logits(removed) - logits(kept))[0]
    rows = difference[position : position + future_tokens].double()
    return effect_sparsity(rows.tolist())
