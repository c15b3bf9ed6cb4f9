"""Share of a task vector's energy in the decoder directions of latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saereg_plugin.sources.task_vectors import TaskVector

DRAWS = 20
"""Random subspaces, and random choices of latents, of which the range is given."""

_ROWS_WRITE = ("o_proj", "down_proj", "out_proj", "dense", "dense_4h_to_h", "fc2")
_COLUMNS_WRITE = ("c_proj",)
_COLUMNS_READ = (
    *("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value"),
    *("gate_proj", "up_proj", "gate_up_proj", "dense_h_to_4h", "fc1"),
)
_ROWS_READ = ("c_attn", "c_fc")
"""
Matrices by whether they write to the residual stream or read it, and on which axis.

Most models store [out, in], GPT-2 stores [in, out].
"""


@dataclass(frozen=True)
class TaskEnergy:
    """
    Energy of a layer's task vector that a projection on latents' decoder rows keeps.

    Attributes:
        layer: number of the layer.
        latents: whose decoder rows span the subspace, by specificity.
        rank: dimensions that these rows span.
        d: dimensions of the residual stream.
        kept: share kept, over all matrices of the layer that read or write the residual stream.
        written: the same over those that write it; None if there is none.
        read: over those that read it, likewise.
        random_subspaces: least and greatest share that random subspaces of that rank keep.
        random_latents: mean share that as many random latents keep.
        best: share that the best subspace of that rank keeps.
    """

    layer: int
    latents: int
    rank: int
    d: int
    kept: float
    written: float | None
    read: float | None
    random_subspaces: tuple[float, float]
    random_latents: float
    best: float

    @property
    def law(self) -> float:
        """Share that a random subspace of that rank keeps on average: rank / d."""
        return self.rank / self.d


def task_energy(
    task: TaskVector, layer: int, decoder: Tensor, latents: Any, *, seed: int
) -> TaskEnergy | None:
    """
    Project a layer's task vector on the decoder rows of some latents.

    Args:
        task: the task vector.
        layer: number of the layer.
        decoder: rows [d_sae, d] in the residual stream.
        latents: ids of the latents.
        seed: of the random subspaces and latents.

    Returns:
        None if the layer is unchanged, or no matrix of it has a known name and d on the side of the
        residual stream.
    """
    rows = decoder.detach().cpu().double()
    d = rows.shape[1]
    written, read = _grams(task, layer, d)
    gram = written + read
    if float(gram.trace()) <= 0:
        return None
    basis = _basis(rows[torch.as_tensor(np.asarray(latents))])
    rank = len(basis)
    generator = torch.Generator().manual_seed(seed)
    subspaces = [
        _share(gram, _basis(torch.randn(rank, d, generator=generator).double()))
        for _ in range(DRAWS)
    ]
    others = [
        _share(
            gram, _basis(rows[torch.randperm(len(rows), generator=generator)[:rank]])
        )
        for _ in range(DRAWS)
    ]
    best = torch.linalg.eigvalsh(gram)[-rank:].sum() / gram.trace()
    return TaskEnergy(
        layer=layer,
        latents=len(latents),
        rank=rank,
        d=d,
        kept=_share(gram, basis),
        written=_share(written, basis) if float(written.trace()) > 0 else None,
        read=_share(read, basis) if float(read.trace()) > 0 else None,
        random_subspaces=(min(subspaces), max(subspaces)),
        random_latents=float(np.mean(others)),
        best=float(best),
    )


def _grams(task: TaskVector, layer: int, d: int) -> tuple[Tensor, Tensor]:
    """Return the Gram matrices [d, d] of a layer's changes on the residual stream's side."""
    written, read = torch.zeros(d, d).double(), torch.zeros(d, d).double()
    for name in task.layers[layer]:
        kind = name.removesuffix(".weight").rpartition(".")[2]
        shape = task.base.shape(name)
        if not name.endswith(".weight") or len(shape) != 2:
            continue
        rows = kind in (*_ROWS_WRITE, *_ROWS_READ)
        columns = kind in (*_COLUMNS_WRITE, *_COLUMNS_READ)
        if not (rows and shape[0] == d) and not (columns and shape[1] == d):
            continue
        change = task.difference(name)
        gram = change @ change.T if rows else change.T @ change
        writes = kind in (*_ROWS_WRITE, *_COLUMNS_WRITE)
        (written if writes else read).add_(gram)
    return written, read


def _basis(rows: Tensor) -> Tensor:
    """Return an orthonormal basis [rank, d] of the span of rows."""
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    return directions[values > 1e-10 * values.max()] if len(values) else directions


def _share(gram: Tensor, basis: Tensor) -> float:
    """Return the share of a Gram matrix's trace in a subspace."""
    return float(((basis @ gram) * basis).sum() / gram.trace())
