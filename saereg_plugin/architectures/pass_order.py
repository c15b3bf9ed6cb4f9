"""Order of forward passes, backward passes and optimiser steps."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch

from saereg_plugin.errors import InputError


class PassOrder:
    """
    Refuses passes of one SAE that its components cannot serve.

    Components know the last forward pass only, and change the sum of gradients.
    """

    def __init__(self):
        self._last = 0
        # number of the pass that gave the parameters' gradients; None after a step
        self._trained: int | None = None
        self._accumulates = False
        self._written: set[str] = set()

    def begin(self, parameters: Iterable[torch.Tensor]) -> None:
        """Count a forward pass, which begins now."""
        self._last += 1
        self._accumulates = self._trained is not None and any(
            parameter.grad is not None and bool(parameter.grad.any())
            for parameter in parameters
        )
        self._written.clear()

    def watch(self, loss: torch.Tensor) -> None:
        """Refuse a backward pass of ``loss``, the last pass's, once another pass began."""
        if loss.requires_grad:
            loss.register_hook(partial(self._require_last, self._last))

    def gradient(self, name: str) -> None:
        """
        Note that autograd has written the gradient of the parameter ``name``.

        Raises:
            InputError: if it adds to gradients of another backward pass since the last
                optimiser step. Gradients left from an earlier step are not noticed.
        """
        if self._accumulates or name in self._written:
            raise InputError(
                "A second backward pass before the optimiser's step: regularisers and mechanics act on "
                "the sum of gradients, so the first pass's part would be changed twice. Take one "
                "backward pass a step (a larger batch instead of accumulated gradients)."
            )
        self._trained = self._last
        self._written.add(name)

    def before_step(self) -> None:
        """
        Check the gradients that an optimiser is about to use.

        Raises:
            InputError: if a forward pass came after the one they are of.
        """
        if self._trained is not None:
            self._require_last(self._trained)

    def after_step(self) -> None:
        """Note that the gradients were used."""
        self._trained = None
        self._written.clear()

    def _require_last(self, number: int, _: torch.Tensor | None = None) -> None:
        if number != self._last:
            raise InputError(
                "Another forward pass came between a forward pass and its optimiser step: regularisers "
                "and mechanics know the last pass only, and would act on one with the state of the "
                "other. Take one forward pass, one backward pass and one step in turn (a larger batch "
                "instead of a sum of losses), and passes for figures under torch.no_grad()."
            )
