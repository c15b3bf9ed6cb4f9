"""SAEBench's meta-structure output with one more category: intervals and baseline."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics
from sae_bench.evals.meta_structure.eval_output import (
    MetaStructureEvalOutput,
    MetaStructureMetricCategories,
)
from torch import Tensor

from eval_recipes.results.metrics import metric, metric_class, value
from eval_recipes.statistics.interval import Interval, bootstrap

_metric = partial(metric, resampled=", bootstrapped over latents")


@metric_class
class CorrectedMetaStructureMetrics(BaseMetrics):
    """Figures of the same meta-SAE, and of one trained on a random decoder."""

    fraction_variance_explained = _metric(
        "Fraction of Variance Explained",
        "1 - squared error / squared distance from the mean row; the k n largest activations over all n rows are kept, whatever the batch size",
        display=True,
        nullable=False,
    )
    fraction_variance_explained_n: int = value(
        "Fraction of Variance Explained (n)", "Latents (decoder rows)"
    )
    fraction_variance_explained_alive = _metric(
        "Fraction of Variance Explained, Alive Latents",
        "The same error over the rows of latents with cos(enc_j, dec_j) > .1, against their own mean; null with fewer than two",
    )
    fraction_variance_explained_alive_n: int = value(
        "Fraction of Variance Explained, Alive Latents (n)", "Alive latents"
    )
    random_fraction_variance_explained: float = value(
        "Fraction of Variance Explained, Random Decoder",
        "What a meta-SAE of the same shape and training reaches on rows drawn uniformly from the sphere",
    )
    above_random: float = value(
        "Above Random",
        "Fraction of variance explained minus that of the random decoder",
        display=True,
    )
    meta_width: int = value("Meta-SAE Width", "Latents of the meta-SAE")


@dataclass
class CorrectedMetaStructureMetricCategories(MetaStructureMetricCategories):
    """Upstream's category, untouched, and the corrected figures beside it."""

    corrected: CorrectedMetaStructureMetrics = value(
        "Corrected",
        "Independent of the batch size, with intervals and the baseline of a random decoder",
    )


@dataclass(config=ConfigDict(title="Meta-Structure Decoder Variance"))
class CorrectedMetaStructureOutput(MetaStructureEvalOutput):
    """Meta-structure evaluation in upstream's format with corrected figures beside its own."""

    eval_result_metrics: CorrectedMetaStructureMetricCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]


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
    so upstream's error depends on the batches. Here the ``int(k * n)`` largest of all n rows
    are kept. The first of two passes finds the smallest of these activations.

    Of SAELens' BatchTopKTrainingSAE on a decoder [n, d_in]; ``batch_size`` rows at once bound the
    memory to batch_size x meta width.
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

    Meta-SAE and mean row are fixed: a mean of each resample would shift the interval by a
    share 1 / n of the variance.
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
