"""Typical magnitudes of latents, and mean differences of rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from saereg_plugin.activations.edits.changes import dense_codes
from saereg_plugin.errors import InputError


@torch.no_grad()
def typical_magnitudes(sae: SAE[Any], batches: Iterable[Tensor]) -> Tensor:
    """
    Return each latent's mean activation over the rows where it is not zero, float32 (d_sae,).

    It is 0 for latents that never fire. ``batches`` are rows (n, d_in) each, for example
    ``one.rows(point)`` of the passes over a source.
    """
    total = torch.zeros(sae.cfg.d_sae, dtype=torch.float64)
    count = torch.zeros(sae.cfg.d_sae, dtype=torch.float64)
    for rows in batches:
        codes = dense_codes(sae, rows).cpu()
        total += codes.double().sum(0)
        count += (codes != 0).double().sum(0)
    return (total / count.clamp(min=1)).float()


@torch.no_grad()
def mean_difference(first: Iterable[Tensor], second: Iterable[Tensor]) -> Tensor:
    """
    Return the mean row of the first batches minus that of the second, float32 (d_in,).

    Raises:
        InputError: if either has no row.
    """
    return (_mean(first) - _mean(second)).float()


def _mean(batches: Iterable[Tensor]) -> Tensor:
    total, count = torch.zeros(1, dtype=torch.float64), 0
    for rows in batches:
        total = total + rows.cpu().double().sum(0)
        count += len(rows)
    if not count:
        raise InputError("There are no rows to take a mean of; expected one or more.")
    return total / count
