"""From a paper's coefficient to one for SAELens' loss: sums, means, scales of activations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from saereg_plugin.checks import require_choice
from saereg_plugin.errors import InputError

Error = Literal["sum", "mean"]
Scale = Literal["unit_mean_square", "as_trained"]


@dataclass(frozen=True, kw_only=True)
class PaperLoss:
    """
    How a paper writes its loss.

    Args:
        error: the squared error of one sample is the ``sum`` over d_in, as in SAELens, or
            the ``mean``. Samples of a batch are averaged in both.
        scale: ``unit_mean_square``: activations with E||x||^2 = 1, where ours have SAELens'
            E||x|| = sqrt(d_in) (``expected_average_only_in``); ``as_trained``: the same
            activations as ours.
    """

    error: Error = "sum"
    scale: Scale = "as_trained"

    def __post_init__(self) -> None:
        for name, kind in (("error", Error), ("scale", Scale)):
            require_choice(name, getattr(self, name), get_args(kind))


def loss_factor(paper: PaperLoss, *, d_in: int) -> float:
    """
    Return what SAELens' loss is of the paper's, for the same SAE up to scale.

    With c the paper's factor of the summed squared error (1 or 1 / d_in) and s our scale
    of activations over the paper's, this is s^2 / c.
    """
    return _scale(paper, d_in) ** 2 / _error_factor(paper, d_in)


def sae_lens_coefficient(
    coefficient: float, *, paper: PaperLoss, degree: int, d_in: int
) -> float:
    """
    Return the coefficient under SAELens' ``||x - x_hat||^2`` summed over d_in.

    The paper's loss is ``c ||x - x_hat||^2 + lambda R``. Scaling activations and biases by s
    multiplies the error by s^2 and R by s^degree, so that
    ``||.||^2 + lambda s^(2 - degree) / c  R`` is the paper's loss times s^2 / c: it has the
    same minima.

    Args:
        coefficient: the paper's lambda.
        paper: its loss.
        degree: of R in the scale of activations: 0 for weights, cosines and ratios, 1 for
            an L1 of activations, 2 for their squares.
        d_in: width of the activations.

    >>> loss = PaperLoss(scale="unit_mean_square")
    >>> sae_lens_coefficient(1e-4, paper=loss, degree=0, d_in=512)
    0.0512
    >>> sae_lens_coefficient(0.04, paper=loss, degree=1, d_in=2304)
    1.92
    """
    if degree not in (0, 1, 2):
        raise InputError(f"degree={degree}; expected 0, 1 or 2.")
    if d_in < 1:
        raise InputError(f"d_in={d_in}; expected at least 1.")
    scale, error = _scale(paper, d_in), _error_factor(paper, d_in)
    factor = scale ** (2 - degree) / error
    # sqrt(512)^2 is 512.0000000000001
    whole = round(factor)
    return coefficient * (whole if math.isclose(factor, whole) else factor)


def _scale(paper: PaperLoss, d_in: int) -> float:
    return math.sqrt(d_in) if paper.scale == "unit_mean_square" else 1.0


def _error_factor(paper: PaperLoss, d_in: int) -> float:
    return 1.0 if paper.error == "sum" else 1 / d_in
