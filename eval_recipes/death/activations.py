"""Outlier severity and effective rank of the activations at a point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval_recipes.statistics.blocks import block_interval
from eval_recipes.statistics.interval import (
    Array,
    ContextSums,
    Interval,
    bootstrap_together,
    concatenate,
)
from saereg_plugin.metrics.born_dead import (
    born_dead_by_relu,
    born_dead_by_spread_topk,
    born_dead_by_topk,
    effective_rank,
    layer_normalised,
    outlier_severity,
)

_BLOCKS = 10
"""Blocks of the jackknife behind the effective rank; contexts take turns."""

Figures = dict[str, Interval | None]


class PointSums:
    """Sums of the activations at one point, which the SAEs on it share."""

    def __init__(self) -> None:
        self._batches = self._contexts = 0
        self._raw: list[ContextSums] = []
        self._normalised: list[ContextSums] = []
        self._products: list[Tensor] = []
        """Sum of x x^T of each block, float64 [d_in, d_in]."""

    def update(self, number: int, activations: Tensor, keep: Tensor) -> None:
        """
        Add a batch, unless another SAE's tally added it.

        Args:
            number: of the batch, from 0.
            activations: [contexts, tokens, d_in].
            keep: False where a token does not count, bool [contexts, tokens].
        """
        if number < self._batches:
            return
        self._batches += 1
        x, keep = activations.double().cpu(), keep.cpu()
        full = torch.zeros_like(x)
        full[keep] = layer_normalised(x[keep])
        self._raw.append(_sums(x * keep[..., None], keep))
        self._normalised.append(_sums(full, keep))
        if not self._products:
            square = (x.shape[-1], x.shape[-1])
            self._products = [x.new_zeros(square) for _ in range(_BLOCKS)]
        for first in range(min(_BLOCKS, len(full))):
            rows = full[first::_BLOCKS].flatten(0, 1)
            self._products[(self._contexts + first) % _BLOCKS] += rows.T @ rows
        self._contexts += len(full)

    def figures(
        self,
        *,
        centre: Tensor | None,
        k: float | None,
        d_sae: int,
        tokens: int,
        resamples: int,
        seed: int,
    ) -> Figures:
        """
        Return gamma, effective rank and the predicted born-dead shares.

        Args:
            centre: decoder bias at the start, [d_in]; None for 0.
            k: selected latents; None if all positive ones fire.
            d_sae: all latents.
            tokens: N of the prediction.
            resamples: of the bootstrap over contexts.
            seed: of the bootstrap.
        """
        normalised = concatenate(self._normalised)
        read = _centred(concatenate(self._raw), centre)

        def relu(gamma: float) -> float:
            return born_dead_by_relu(gamma, tokens=tokens)

        def selected(gamma: float) -> float:
            if k is None:
                return relu(gamma)
            return born_dead_by_topk(gamma, k=k, d_sae=d_sae, tokens=tokens)

        read_tokens = max(2, int(read.count.sum()))

        def here(gamma: float) -> float:
            if k is None:
                return born_dead_by_relu(gamma, tokens=read_tokens)
            return born_dead_by_spread_topk(gamma, k=k, d_sae=d_sae, tokens=read_tokens)

        # each is a function of gamma, so that the resamples are gamma's
        found = bootstrap_together(
            {
                "gamma": lambda w: _gammas(normalised, w),
                "gamma_as_read": lambda w: _gammas(read, w),
                "predicted_by_relu": lambda w: _each(relu, _gammas(normalised, w)),
                "predicted": lambda w: _each(selected, _gammas(normalised, w)),
                "predicted_here": lambda w: _each(here, _gammas(normalised, w)),
                "predicted_as_read": lambda w: _each(selected, _gammas(read, w)),
            },
            len(read.count),
            resamples=resamples,
            seed=seed,
        )
        return {**found, "effective_rank": self._rank(normalised)}

    def _rank(self, sums: ContextSums) -> Interval | None:
        """Return the effective rank, with a jackknife over blocks of batches."""
        total = torch.stack(self._products).sum(0)
        block = np.arange(len(sums.count)) % _BLOCKS

        def rank(products: Tensor, kept: NDArray[np.bool_]) -> float:
            count = float(sums.count[kept].sum())
            if count == 0:
                return float("nan")
            mean = torch.from_numpy(sums.total[kept].sum(0) / count)
            return effective_rank(products / count - torch.outer(mean, mean))

        blocks = range(min(_BLOCKS, len(sums.count)))
        without = [rank(total - self._products[b], block != b) for b in blocks]
        return block_interval(rank(total, block >= 0), without, len(sums.count))


def _sums(x: Tensor, keep: Tensor) -> ContextSums:
    """Sum rows [contexts, tokens, d_in], which are 0 where they do not count."""
    return ContextSums(
        count=keep.double().sum(1).numpy(),
        total=x.sum(1).numpy(),
        square=x.square().sum((1, 2)).numpy(),
    )


def _centred(sums: ContextSums, centre: Tensor | None) -> ContextSums:
    """Return the sums of ``x - centre``."""
    if centre is None:
        return sums
    offset = centre.double().cpu().numpy()
    return ContextSums(
        count=sums.count,
        total=sums.total - sums.count[:, None] * offset,
        square=sums.square
        - 2 * sums.total @ offset
        + sums.count * float(offset @ offset),
    )


def _gammas(sums: ContextSums, weights: Array) -> Array:
    """Return gamma for each weighting of the contexts, [weightings]."""
    count = weights @ sums.count
    mean_square = (weights @ sums.square) / count
    square_mean = np.square((weights @ sums.total) / count[:, None]).sum(-1)
    pairs = zip(mean_square.tolist(), square_mean.tolist(), strict=True)
    return np.array([outlier_severity(*pair) for pair in pairs])


def _each(predict: Callable[[float], float], gammas: Array) -> Array:
    return np.array([predict(gamma) for gamma in gammas.tolist()])
