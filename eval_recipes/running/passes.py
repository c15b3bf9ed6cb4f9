"""Passes over held-out inputs, and rows kept between passes over text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eval_recipes.running.activation_source import Source, open_other
from eval_recipes.running.context import RunContext
from eval_recipes.running.sources import OtherSource
from eval_recipes.statistics.interval import ContextSums
from saereg_plugin.activations.passes import Pass
from saereg_plugin.activations.source import ActivationSource, InputSource
from saereg_plugin.errors import InputError

_PLACE = "heldout rows"
_SHARE = 4
"""Rows are kept where they take at most this part of the run's bound on memory."""


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


@dataclass(frozen=True)
class HeldOutRows:
    """
    What a language model gave at one hook on the held-out text.

    Attributes:
        source: hook, model and contexts.
        seen: ids of the tokens that the SAEs see, int32 (contexts, tokens).
        activations: float32 (contexts, tokens, d_in).
    """

    source: Source
    seen: Tensor
    activations: Tensor


class RowsTaker:
    """
    Takes rows batch by batch in one pass; keeps them if all fit.

    One allocation holds all, so that nothing small stays between the large tensors of a pass.
    """

    def __init__(self, context: RunContext, source: Source, *, contexts: int) -> None:
        self._run, self._source = context.whole or context, source
        self._contexts = contexts
        self._held: Tensor | None = None
        self._seen: list[Tensor] = []
        self._rows = 0

    def take(self, seen: Tensor, activations: Tensor) -> None:
        """Take one batch: ids (contexts, tokens), activations (contexts, tokens, d_in)."""
        if self._rows == 0:
            size = self._contexts * activations[0].nbytes
            # what an earlier pass kept of another source goes first
            self._run.measured.pop(_PLACE, None)
            if size * _SHARE <= self._run.memory_gib * 2**30:
                shape = (self._contexts, *activations.shape[1:])
                self._held = torch.empty(shape, dtype=activations.dtype)
        self._seen.append(seen)
        if self._held is not None:
            self._held[self._rows : self._rows + len(seen)] = activations
        self._rows += len(seen)

    def keep(self) -> None:
        """Keep the rows for the next pass; called after the last batch."""
        if self._held is not None and self._rows:
            self._run.measured[_PLACE] = HeldOutRows(
                self._source, torch.cat(self._seen), self._held[: self._rows]
            )


def kept_rows(context: RunContext, source: Source) -> HeldOutRows | None:
    """Return what an earlier pass of the run kept of a source, or None."""
    run = context.whole or context
    found: Any = run.measured.get(_PLACE)
    return found if found is not None and found.source == source else None
