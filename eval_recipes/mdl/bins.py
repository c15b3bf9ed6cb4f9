"""Uniform bins for activations, and the coarsest width that keeps the error."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from eval_recipes.mdl.options import WidthUnit
from eval_recipes.mdl.tally import HeldOutCodes

COARSEST, FINEST = 2, -30
"""Powers of two between which the width is searched; see ``width_units``."""

HALVINGS = 8
"""Bisections after the grid: the width is found to a factor of ``2 ** (1 / 256)``."""


class NoWidthError(ValueError):
    """No bin width keeps the error within its bound."""


class Width(NamedTuple):
    """A bin width and what it does to the error."""

    relative: float
    """Width in units of ``width_units``."""
    of_latents: Tensor
    """Width for each latent's activations, float64 [d_sae]."""
    residual: Tensor
    """``||x - x_hat||^2`` of each row with quantised codes, float64 [rows]."""
    rise: float
    """By what share of itself the mean squared error rises."""


def bin_numbers(values: Tensor, widths: Tensor) -> Tensor:
    """
    Return the bin of each activation that is not 0, int64.

    Bin n > 0 is ``((n - 1) w, n w]``, and bin -n its mirror image. No bin holds 0, which is coded
    as "does not fire".

    >>> bin_numbers(torch.tensor([0.5, 1.0, 1.5, -0.2]), torch.ones(4)).tolist()
    [1, 1, 2, -1]
    """
    exact = values.double()
    numbers = (exact.abs() / widths.double()).ceil().clamp(min=1)
    return (numbers * exact.sign()).long()


def midpoints(numbers: Tensor, widths: Tensor) -> Tensor:
    """
    Return the middle of each bin, float64.

    >>> midpoints(torch.tensor([1, 2, -1]), torch.ones(3)).tolist()
    [0.5, 1.5, -0.5]
    """
    return (numbers.abs().double() - 0.5) * numbers.sign() * widths.double()


def width_units(held: HeldOutCodes, spread: float, unit: WidthUnit) -> Tensor:
    """
    Return what a relative width of 1 is for each latent's activations, float64 [d_sae].

    Args:
        held: the codes.
        spread: root of the mean ``||x - mean x||^2``.
        unit: "output": the width of the contribution ``z ||d||`` is one for all latents, in units
            of the spread. A uniform quantiser with one step in the output costs the fewest bits
            for its error where bins are narrow. "latent": in units of the root mean
            square of the activations of each latent where it fires.
    """
    if unit == "output":
        norms = held.norms
        # the activations of a row of zeros move nothing
        return spread / torch.where(norms > 0, norms, 1)
    latents, values = held.codes.latents, held.codes.values.double()
    square = held.codes.selected.latent_sums(values.square())
    fires = torch.bincount(latents, minlength=held.codes.d_sae)
    return torch.where(fires > 0, (square / fires.clamp(min=1)).sqrt(), 1)


def coarsest_width(
    held: HeldOutCodes, units: Tensor, *, epsilon: float, halvings: int = HALVINGS
) -> Width:
    """
    Return the coarsest width with which quantised codes raise the squared error by ``epsilon``.

    Goes down the powers of two to the first width within the bound, and bisects between it and
    the power above. The rise grows with the width but for small waves; the returned width is
    within the bound in any case.

    Args:
        held: the codes.
        units: see ``width_units``.
        epsilon: largest rise, as a share of the error.
        halvings: bisections.

    Raises:
        NoWidthError: if the SAE reconstructs exactly, or no width is fine enough.
    """
    error = float(held.residual.sum())
    if error <= 0:
        raise NoWidthError(
            "it reconstructs every row exactly, so that no rise of its error is relative to it"
        )

    def at(relative: float) -> Width:
        widths = relative * units
        of_pairs = widths[held.codes.latents]
        coded = midpoints(bin_numbers(held.codes.values, of_pairs), of_pairs)
        residual = held.residual_with(coded)
        return Width(relative, widths, residual, float(residual.sum()) / error - 1)

    found = _coarsest_power(at, epsilon)
    low, high = found.relative, 2 * found.relative
    for _ in range(halvings):
        middle = at((low * high) ** 0.5)
        if middle.rise <= epsilon:
            found, low = middle, middle.relative
        else:
            high = middle.relative
    return found


def _coarsest_power(at: Callable[[float], Width], epsilon: float) -> Width:
    """Return the coarsest power of two within the bound."""
    for power in range(COARSEST, FINEST - 1, -1):
        found = at(2.0**power)
        if found.rise <= epsilon:
            return found
    raise NoWidthError(
        f"no bin width keeps the rise of its error within {epsilon:g} of it"
    )
