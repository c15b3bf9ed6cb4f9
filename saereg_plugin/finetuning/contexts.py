"""Batches of contexts with their clean pass, resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from saereg_plugin.activations.language_model import LanguageModelSource
from saereg_plugin.activations.stream import Mixing
from saereg_plugin.finetuning.frozen_model import CleanPass, FrozenModel
from saereg_plugin.finetuning.losses import Objective
from saereg_plugin.sources.models import LanguageModel

BLOCK = 64
"""Batches of contexts that are read at once, and put into the order of the seed."""


@dataclass(frozen=True)
class Order:
    """
    Which contexts are read, and in what order.

    Attributes:
        first: batches of the text that are skipped.
        seed: of the order of contexts within ``BLOCK`` batches.
    """

    first: int
    seed: int


class ContextSource(LanguageModelSource):
    """A language model on a text, read by whole contexts with what follows the hooks."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        objective: Objective,
        order: Order,
        **settings: Any,
    ) -> None:
        super().__init__(model, **settings)
        model.requires_grad_(False)
        self.frozen = FrozenModel(model, list(self.points), objective)
        self._order = order

    @override
    def stream(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        mixing: Mixing,
        *,
        points: Sequence[str] | None = None,
        count_pairs: bool = False,
        prefetch: int | None = None,
    ) -> ContextStream:
        """Return batches of contexts; they come in the order of the source."""
        del mixing, points, count_pairs, prefetch
        return ContextStream(self, self._order)


class ContextStream(Iterator[CleanPass]):
    """
    Endless clean passes; the stream of a trainer.

    The order is a function of the seed and the number of the batch, so its state is that
    number.
    """

    def __init__(self, source: ContextSource, order: Order) -> None:
        self._source, self._order = source, order
        self._next = 0
        self._read_blocks = 0
        self._block: list[Tensor] = []
        self._peeked: CleanPass | None = None
        self._skipped = False
        self.model_seconds = 0.0
        self._rows = 0

    @property
    def seconds_per_row(self) -> float:
        """Seconds of the clean pass for each kept token."""
        return self.model_seconds / max(1, self._rows)

    @override
    def __next__(self) -> CleanPass:
        found, self._peeked = self._peeked or self._compute(), None
        self._next += 1
        return found

    def peek(self) -> dict[str, Tensor]:
        """Return the rows of the next batch by point; it stays the next one."""
        if self._peeked is None:
            self._peeked = self._compute()
        return {point: self._peeked.rows(point) for point in self._source.points}

    def pairs_across_documents(self) -> None:
        """Return nothing: pairs of tokens are not counted."""

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the next batch."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a batch; the text before it is read, and not computed."""
        self._next, self._peeked = int(state["next"]), None

    def close(self) -> None:
        """Do nothing; there is no thread to end."""

    def _compute(self) -> CleanPass:
        tokens = self._tokens()
        started = time.perf_counter()
        found = self._source.frozen.clean(tokens, self._source.keep(tokens))
        self.model_seconds += time.perf_counter() - started
        self._rows += int(found.keep.sum())
        return found

    def _tokens(self) -> Tensor:
        """Return the tokens of the next batch, (contexts, tokens)."""
        number, place = divmod(self._next, BLOCK)
        if not self._skipped:
            for _ in range(self._order.first):
                self._source.tokens()
            self._skipped = True
        while self._read_blocks <= number:
            contexts = torch.cat([self._source.tokens() for _ in range(BLOCK)])
            self._block = self._ordered(contexts, self._read_blocks)
            self._read_blocks += 1
        return self._block[place]

    def _ordered(self, contexts: Tensor, number: int) -> list[Tensor]:
        """Return a block's batches in the order of the seed."""
        generator = torch.Generator().manual_seed(self._order.seed * 1_000_003 + number)
        order = torch.randperm(len(contexts), generator=generator)
        return list(contexts[order.to(contexts.device)].chunk(BLOCK))
