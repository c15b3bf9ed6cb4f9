"""Passes over held-out inputs of a source: images, clips, rows of arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eval_recipes.running.activation_source import open_other
from eval_recipes.running.context import RunContext
from eval_recipes.running.sources import OtherSource
from eval_recipes.statistics.interval import ContextSums
from saereg_plugin.activations.passes import Pass
from saereg_plugin.activations.source import ActivationSource, InputSource
from saereg_plugin.errors import InputError


@dataclass(frozen=True)
class Inputs:
    """
    The inputs of a source that SAEs saw, in their order.

    Attributes:
        source: what they are inputs of; of a ``InputSource`` each can be asked for.
        numbers: of the inputs in the source, int64 (inputs,).
        lengths: rows of each up to its last kept one, int64 (inputs,).
    """

    source: ActivationSource
    numbers: Tensor
    lengths: Tensor


class Passed(NamedTuple):
    """What was read in one pass, and sums of the activations themselves at one point."""

    kept: ContextSums
    """Of the rows that count: tokens that are not special, or rows that are no padding."""
    special: ContextSums | None
    """Of special tokens; None for other inputs than text."""
    context_size: int
    """Tokens in one context, or the most rows of an input."""
    tokens: Tensor
    """Ids of the tokens that the SAEs saw, int32 (contexts, tokens); empty without text."""
    inputs: Inputs | None = None
    """Inputs that the SAEs saw; None for text."""


class InputPasses:
    """
    Passes over inputs until as many rows were seen as asked for, or all.

    If there are more inputs, they are drawn at random: neighbours are often alike.

    Args:
        context: the run, which says how many rows.
        source: the source.
        points: of the SAEs.
    """

    name = "held-out inputs"

    def __init__(
        self, context: RunContext, source: OtherSource, points: list[str]
    ) -> None:
        self._source = open_other(context, source, points)
        self._most = context.heldout_tokens
        self._seed = context.seed
        self._numbers: list[Tensor] = []
        self._lengths: list[Tensor] = []
        rows = self._source.rows_per_input
        self.total = None
        if isinstance(self._source, InputSource) and rows is not None:
            read = min(self._most, self._source.n_inputs * rows)
            self.total = math.ceil(read / self._source.rows_per_pass)

    def __iter__(self) -> Iterator[Pass]:
        left = self._most
        for found in self._passes():
            keep = found.keep.cpu()
            self._numbers.append(found.inputs.cpu())
            self._lengths.append(lengths_of(keep))
            yield Pass(found.activations, keep, found.inputs)
            left -= int(keep.sum())
            if left <= 0:
                break
        if left == self._most:
            raise InputError(
                "The source of held-out activations has no rows; expected one or more. Name "
                "another with --source."
            )

    def passed(self, kept: ContextSums, special: ContextSums | None) -> Passed:
        """Return what was read."""
        lengths = torch.cat(self._lengths)
        inputs = Inputs(self._source, torch.cat(self._numbers), lengths)
        nothing = torch.zeros(0, 0, dtype=torch.int32)
        return Passed(kept, special, int(lengths.max()), nothing, inputs)

    def _passes(self) -> Iterator[Pass]:
        source = self._source
        if isinstance(source, InputSource):
            yield from source.passes(_chosen(source, self._most, self._seed))
            return
        # a part of a source, such as a cache of its first rows
        left = getattr(source, "rows_available", None) or self._most
        feed = source.feed()
        while left > 0:
            found = feed.take()
            yield found
            left -= int(found.keep.sum())


def _chosen(source: InputSource, rows: int, seed: int) -> Tensor:
    """Return the numbers of the inputs to read, int64; in random order if lengths differ."""
    n, each = source.n_inputs, source.rows_per_input
    needed = n if each is None else math.ceil(rows / each)
    if each is not None and needed >= n:
        return torch.arange(n)
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return drawn if each is None else drawn[:needed].sort().values


def lengths_of(keep: Tensor) -> Tensor:
    """
    Return one more than the place of each row's last True, int64.

    >>> lengths_of(torch.tensor([[True, False, True, False], [False, False, False, False]])).tolist()
    [3, 0]
    """
    places = torch.arange(1, keep.shape[1] + 1)
    return (keep * places).amax(1)
