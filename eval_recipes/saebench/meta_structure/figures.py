"""How much of a decoder a meta-SAE explains, row by row and whatever the batch size."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval_recipes.statistics.contexts import bootstrap
from eval_recipes.statistics.interval import Interval

Array = NDArray[np.float64]


class RowErrors(NamedTuple):
    """Of each decoder row: the row in float64 [n, d_in], its squared error [n]."""

    rows: Array
    residual: Array


@torch.no_grad()
def row_errors(meta: Any, decoder: Tensor, *, batch_size: int) -> RowErrors:
    """
    Return each row's squared reconstruction error under the meta-SAE ``meta``.

    A BatchTopK SAE in training mode keeps the ``k * batch`` largest activations of a batch,
    so upstream's error depends on which rows share one. Here the ``int(k * n)`` largest of
    all n rows are kept: two passes, the first for the smallest activation that stays.

    Args:
        meta: SAELens' BatchTopKTrainingSAE.
        decoder: [n, d_in].
        batch_size: rows at once; bounds memory to batch_size x meta width.
    """
    batches = decoder.split(batch_size)
    keep = int(meta.cfg.k * len(decoder))
    largest = torch.empty(0, dtype=decoder.dtype, device=decoder.device)
    for batch in batches:
        acts = meta.encode_with_hidden_pre(batch)[1].relu().flatten()
        largest = torch.cat([largest, acts.topk(min(keep, acts.numel())).values])
        largest = largest.topk(min(keep, largest.numel())).values
    smallest = largest.min()
    errors: list[Tensor] = []
    for batch in batches:
        acts = meta.encode_with_hidden_pre(batch)[1].relu()
        output = meta.decode(torch.where(acts >= smallest, acts, 0.0))
        errors.append((batch.double() - output.double()).square().sum(-1))
    return RowErrors(decoder.double().cpu().numpy(), torch.cat(errors).cpu().numpy())


def variance_explained(errors: RowErrors, *, seed: int) -> Interval:
    """
    Return 1 - sum error / sum ||row - mean row||^2, with its interval over rows.

    Meta-SAE and mean row stay as they are: a mean recomputed in each resample would shift
    the interval by a share 1 / n of the variance.
    """
    rows, residual = errors
    squares = np.square(rows - rows.mean(0)).sum(1)

    def statistic(weights: Array) -> Array:
        total = weights @ squares
        # rows that are all equal have no variance to explain: upstream says 0
        safe = np.where(total > 0, total, 1.0)
        return np.where(total > 0, 1 - (weights @ residual) / safe, 0.0)

    return bootstrap(statistic, len(rows), seed=seed)


def random_rows(n: int, d_in: int, *, seed: int) -> Tensor:
    """Return rows [n, d_in] of norm 1 in uniformly random directions."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d_in, generator=generator)
    return rows / rows.norm(dim=-1, keepdim=True)
