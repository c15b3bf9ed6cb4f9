"""Inputs that choose latents, and inputs that measure them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval_recipes.statistics.auroc import auroc, aurocs
from eval_recipes.statistics.interval import Array, Interval

FEWEST_INPUTS = 4
"""Fewest inputs of a set; half of them select, half of them measure."""


@dataclass(frozen=True)
class Split:
    """Indices of inputs that select latents and train probes, and of inputs that measure."""

    select: NDArray[np.intp]
    measure: NDArray[np.intp]


def halves(n: int, *, seed: int) -> Split:
    """
    Split ``n`` inputs at random into halves; the first is the larger if ``n`` is odd.

    Raises:
        ValueError: for fewer than ``FEWEST_INPUTS``.
    """
    if n < FEWEST_INPUTS:
        raise ValueError(f"{n} inputs; expected {FEWEST_INPUTS} or more")
    order = np.random.default_rng(seed).permutation(n)
    cut = (n + 1) // 2
    return Split(np.sort(order[:cut]), np.sort(order[cut:]))


@dataclass(frozen=True)
class Separating:
    """A latent that was chosen because it separates two sets of inputs."""

    latent: int
    selected: float
    """AUROC on the inputs that it was chosen by: too high, since it is the best of many."""
    measured: Interval
    """AUROC on the other inputs: an unbiased figure."""


def best_latents(
    a: Array, b: Array, pool: list[int], n: int, *, seed: int
) -> list[Separating]:
    """
    Return ``n`` latents of a pool that are larger on ``a`` than on ``b``, best first.

    Half of each set, values of shape (inputs, d_sae), ranks the latents by AUROC, ties by id; the
    other half gives the reported figure. ``seed`` decides the split.
    """
    of_a, of_b = halves(len(a), seed=seed), halves(len(b), seed=seed)
    columns = np.array(pool)
    ranked = aurocs(a[of_a.select][:, columns], b[of_b.select][:, columns])
    order = np.lexsort((columns, -ranked))[:n]
    return [
        Separating(
            latent,
            selected=float(ranked[place]),
            measured=auroc(a[of_a.measure, latent], b[of_b.measure, latent]),
        )
        for place, latent in zip(order, columns[order].tolist(), strict=True)
    ]
