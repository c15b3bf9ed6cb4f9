"""Schedules of a coefficient over training steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from saereg_plugin.checks import require_choice, require_field_types
from saereg_plugin.errors import InputError

Anneal = Literal["none", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """
    Warm-up from 0, then constant, or annealed to a final value.

    All lengths are in optimiser steps, because an SAE does not know how long
    its run is. At step ``t`` (the number of completed steps):

    - ``t < warm_up_steps``: ``coefficient * t / warm_up_steps``;
    - then ``coefficient`` until ``anneal_start``;
    - then, over ``anneal_steps`` steps, with progress ``p`` from 0 to 1,
      linear: ``coefficient + (final - coefficient) * p``,
      cosine: ``final + (coefficient - final) * (1 + cos(pi p)) / 2``;
    - then ``final_coefficient``.
    """

    warm_up_steps: int = 0
    """Steps of the linear rise from 0."""
    anneal: Anneal = "none"
    """Shape of the way to ``final_coefficient``."""
    anneal_start: int = 0
    """First step of the annealing; not before the end of the warm-up."""
    anneal_steps: int = 0
    """Length of the annealing."""
    final_coefficient: float = 0.0
    """Value at the end of the annealing and after it."""

    def __post_init__(self) -> None:
        require_field_types(self)
        require_choice("anneal", self.anneal, get_args(Anneal))
        if self.warm_up_steps < 0 or self.anneal_start < 0 or self.anneal_steps < 0:
            raise InputError(
                f"A schedule counts steps from 0, got warm_up_steps={self.warm_up_steps}, "
                f"anneal_start={self.anneal_start}, anneal_steps={self.anneal_steps}. "
                "Give lengths that are 0 or more."
            )
        if not math.isfinite(self.final_coefficient) or self.final_coefficient < 0:
            raise InputError(
                f"final_coefficient is {self.final_coefficient}; expected a finite number, 0 or more."
            )
        if self.anneal == "none":
            self._require_no_annealing()
            return
        if self.anneal_steps == 0:
            raise InputError(
                f"anneal={self.anneal!r} needs anneal_steps of at least 1, got 0."
            )
        if self.anneal_start < self.warm_up_steps:
            raise InputError(
                f"anneal_start={self.anneal_start} lies in the warm-up of "
                f"{self.warm_up_steps} steps; start the annealing at its end or later."
            )

    def _require_no_annealing(self) -> None:
        """Refuse a final value that would never be reached."""
        if self.final_coefficient != 0:
            raise InputError(
                f"final_coefficient is {self.final_coefficient}, but anneal is 'none', so the coefficient "
                "never gets there. Set anneal to 'linear' or 'cosine' and anneal_steps."
            )

    def value(self, coefficient: float, step: int) -> float:
        """Return the coefficient after ``step`` completed steps."""
        if step < self.warm_up_steps:
            return coefficient * step / self.warm_up_steps
        if self.anneal == "none" or step < self.anneal_start:
            return coefficient
        progress = min(1.0, (step - self.anneal_start) / self.anneal_steps)
        if self.anneal == "linear":
            return coefficient + (self.final_coefficient - coefficient) * progress
        share_left = (1 + math.cos(math.pi * progress)) / 2
        return (
            self.final_coefficient + (coefficient - self.final_coefficient) * share_left
        )
