"""Base classes of sources of activations."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from saereg_plugin.activations.passes import Feed as Feed
from saereg_plugin.activations.passes import Pass as Pass
from saereg_plugin.activations.stream import ActivationStream, Mixing, PointBatches
from saereg_plugin.errors import InputError, suggest


def digest_of(identity: Mapping[str, Any]) -> str:
    """Return a hash of plain JSON, 64 hexadecimal digits."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class ActivationSource(ABC):
    """
    Where an SAE's activations come from.

    Attributes:
        points: d_in by point (hook or module), in the order given.
        device: where activations are computed and returned.
        ordered: whether rows are neighbours in time. Each input begins with the same row, as
            contexts that begin with BOS do, so pairs of neighbours leave out the pair (0, 1).
        rows_per_input: kept rows of every input; None if inputs differ.
        rows_per_pass: rows that a pass gives, more or less.
        rows_available: rows after which the feed ends; None if it begins anew, or has no end.
    """

    kind: ClassVar[str]

    points: Mapping[str, int]
    device: torch.device
    ordered: bool = False
    rows_per_input: int | None = None
    rows_per_pass: int = 1
    rows_available: int | None = None

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
        return digest_of(self.identity())

    def batches(
        self,
        batch_size: int,
        *,
        point: str | None = None,
        buffer_rows: int = 65_536,
        mixing_fraction: float = 0.5,
        seed: int = 0,
    ) -> PointBatches:
        """
        Return endless shuffled batches [batch_size, d_in], as SAELens' ``SAETrainer`` takes them.

        Args:
            batch_size: rows of a batch.
            point: where the activations come from; by default the source's only point.
            buffer_rows: rows held for shuffling.
            mixing_fraction: share of the buffer kept back when it is refilled; 0 serves rows
                in order.
            seed: of the shuffling.

        Raises:
            InputError: for a point that the source does not have, or several and none named.
        """
        point = self._only_point() if point is None else point
        if point not in self.points:
            raise InputError(f"No point {point!r}. {suggest(point, self.points)}")
        mixing = Mixing(
            batch_size=batch_size,
            buffer_rows=buffer_rows,
            fraction=mixing_fraction,
            seed=seed,
        )
        return PointBatches(self.stream(mixing, points=[point]), point)

    def stream(
        self,
        mixing: Mixing,
        *,
        points: Sequence[str] | None = None,
        count_pairs: bool = False,
        prefetch: int | None = None,
    ) -> ActivationStream:
        """
        Return endless batches by point, as SAELens' ``MultiSAETrainer`` takes them.

        Args:
            mixing: how rows become batches.
            points: some of the source's points; by default all.
            count_pairs: count the pairs of neighbouring rows that lie in two documents.
            prefetch: as in ``ActivationStream``.
        """
        chosen = self.points if points is None else {p: self.points[p] for p in points}
        return ActivationStream(
            self.feed(),
            chosen,
            mixing,
            device=self.device,
            rows_per_pass=self.rows_per_pass,
            prefetch=prefetch,
            pairs_within=self.rows_per_input if count_pairs else None,
        )

    def _only_point(self) -> str:
        first, *others = self.points
        if others:
            raise InputError(
                f"The source has the points {', '.join(map(repr, self.points))}; expected one. "
                "Name it with point=, or use stream() for all."
            )
        return first


class InputSource(ActivationSource):
    """
    A source over a finite number of inputs, each read by its number.

    Attributes:
        n_inputs: number of inputs.
        labels: int64 (n_inputs,), classes of the inputs; None without classes.
        class_names: names of the classes, by label.
        groups: int64 (n_inputs,), inputs of one number are variants of one thing, which an
            evaluation must not split; None if there are no variants.
        seed: of the order in which inputs are trained on, the same in every epoch.
    """

    n_inputs: int
    labels: Tensor | None = None
    class_names: Sequence[str] = ()
    groups: Tensor | None = None
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
