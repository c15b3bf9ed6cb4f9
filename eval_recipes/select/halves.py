"""Inputs that choose latents, and inputs that measure them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
