"""Base classes of sources of activations."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
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


class ActivationSource(ABC):
    """
    Where an SAE's activations come from.

    Attributes:
        points: d_in by point (hook or module), in the order given.
        device: where activations are computed and returned.
        ordered: whether neighbouring rows of an input are neighbours in time.
        rows_per_input: kept rows of every input; None if inputs differ.
    """

    kind: ClassVar[str]

    points: Mapping[str, int]
    device: torch.device
    ordered: bool = False
    rows_per_input: int | None = None

    @abstractmethod
    def feed(self) -> Feed:
        """Return passes from the first input on."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return plain JSON of what decides the activations: weights, data, preprocessing."""

    @abstractmethod
    def metadata(self, point: str) -> dict[str, Any]:
        """Return what the metadata of an SAE on this point says of its source."""

    def digest(self) -> str:
        """Return a hash of ``identity``, 64 hexadecimal digits."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def close(self) -> None:
        """Free what the source holds; it is not used afterwards."""


class InputSource(ActivationSource):
    """
    A source over a finite number of inputs, each read by its number.

    Attributes:
        n_inputs: number of inputs.
        labels: int64 (n_inputs,), classes of the inputs; None without classes.
        class_names: names of the classes, by label.
        seed: of the order in which inputs are trained on, the same in every epoch.
    """

    n_inputs: int
    labels: Tensor | None = None
    class_names: Sequence[str] = ()
    seed: int = 0

    @abstractmethod
    def passes(self, numbers: Tensor) -> Iterator[Pass]:
        """Yield passes over these inputs (int64), in this order."""

    def title(self, number: int) -> str:
        """Return a short name of an input, for people."""
        return f"input {number}"

    def order(self) -> Tensor:
        """Return the order in which inputs are trained on, int64 (n_inputs,)."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(self.n_inputs, generator=generator)

    def feed(self) -> Feed:
        """Return passes over all inputs, epoch after epoch, each in the same order."""
        return Epochs(self)


class Epochs:
    """Endless passes over a source of inputs."""

    def __init__(self, source: InputSource) -> None:
        self._source = source
        self._order = source.order()
        self._passes: Iterator[Pass] = iter(())

    def take(self) -> Pass:
        """Return the next pass; after the last input, the first of a new epoch."""
        found = next(self._passes, None)
        if found is None:
            self._passes = self._source.passes(self._order)
            found = next(self._passes)
        return found

    def skip_to(self, position: int) -> None:
        """Go on after the first ``position`` inputs, counted over all epochs."""
        done = position % self._source.n_inputs
        self._passes = self._source.passes(self._order[done:])
