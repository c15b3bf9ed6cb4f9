"""Activations of the held-out text, kept for the next pass over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eval_recipes.running.activation_source import Source
from eval_recipes.running.context import RunContext

_PLACE = "heldout rows"
_SHARE = 4
"""Rows are kept where they take at most this part of the run's bound on memory."""


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
