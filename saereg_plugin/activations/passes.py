"""Passes over inputs, and endless feeds of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Pass:
    """
    Activations of one pass over some inputs: texts, images, clips, or rows of an array.

    Attributes:
        activations: by point, shape (inputs, rows, d_in), in the data type of the model.
        keep: bool (inputs, rows); False for rows that are padding or special tokens.
        inputs: int64 (inputs,); numbers of the inputs in the data.
        crossing: bool (inputs, rows); rows t whose pair (t - 1, t) lies in two documents.
            None where it is not counted.
    """

    activations: Mapping[str, Tensor]
    keep: Tensor
    inputs: Tensor
    crossing: Tensor | None = None

    def rows(self, point: str) -> Tensor:
        """Return the kept rows at a point, float32 (n, d_in)."""
        return self.activations[point][self.keep].float()


class Feed(Protocol):
    """Endless passes over a source in its training order; used by one thread at a time."""

    def take(self) -> Pass:
        """Return the next pass."""
        ...

    def skip_to(self, position: int) -> None:
        """Go on after the first ``position`` inputs, without computing them."""
        ...
