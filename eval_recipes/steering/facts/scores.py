"""Log-probabilities of names after questions, with a direction added or not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from eval_recipes.statistics.interval import Array
from eval_recipes.steering.generate.backend import Backend, pad_rows
from eval_recipes.steering.generate.decoding import Positions, require_numbers
from eval_recipes.steering.generate.generate import Layout
from eval_recipes.steering.generate.prompts import Prompt, encode_prompts
from saereg_plugin.errors import InputError

Score = Literal["sum", "token_mean"]
"""
Score of a name.

- ``sum``: the log-probability of the whole name, the sum over its tokens.
- ``token_mean``: the same over the number of tokens.
"""


_ROWS = 32
"""Most names read at a time: more would wait longer for the longest name."""


@dataclass(frozen=True)
class Asked:
    """A question and a name after it, as tokens."""

    prompt: Prompt
    name: tuple[int, ...]


def encode_names(
    tokenizer: Any,
    questions: Sequence[str],
    names: Sequence[str],
    *,
    prepend_bos: bool,
) -> list[Asked]:
    """
    Tokenise questions, each with a space and a name after it.

    Question and name are tokenised together, as they stand in a text.

    Raises:
        InputError: if a question's tokens are others with the name behind them.
    """
    texts = [
        f"{question} {name}" for question, name in zip(questions, names, strict=True)
    ]
    prompts = encode_prompts(tokenizer, questions, prepend_bos=prepend_bos)
    whole = encode_prompts(tokenizer, texts, prepend_bos=prepend_bos)
    found: list[Asked] = []
    for prompt, both in zip(prompts, whole, strict=True):
        n = len(prompt.tokens)
        if both.tokens[:n] != prompt.tokens or len(both.tokens) == n:
            raise InputError(
                f"The tokens of {prompt.text!r} change in {both.text!r}; expected a question that "
                "ends where a token ends. Change the end of its template."
            )
        found.append(Asked(prompt, both.tokens[n:]))
    return found


@dataclass(frozen=True)
class NameScores:
    """Log-probabilities of the names of each fact, in nats."""

    holder: Array
    """[fact]."""
    later: Array
    """[fact]."""

    @property
    def difference(self) -> Array:
        """Score of the later holder less that of the holder at the date [fact]."""
        return self.later - self.holder


class NameReader:
    """
    Reads both names of each fact, under any direction.

    All rows of a chunk are the same in each call, so that a direction of strength 0 changes
    no bit. Questions are read once where steering leaves them as they are.
    """

    def __init__(
        self,
        backend: Backend,
        hook_name: str,
        holders: Sequence[Asked],
        laters: Sequence[Asked],
        *,
        positions: Positions = "prompt_end",
        score: Score = "sum",
        batch_size: int = _ROWS,
    ) -> None:
        self.backend = backend
        self.hook_name = hook_name
        self.positions = positions
        self.score = score
        self.rows = [*holders, *laters]
        batch_size = min(batch_size, _ROWS)
        # names of about equal length end in the same step
        order = sorted(range(len(self.rows)), key=lambda row: len(self.rows[row].name))
        self._chunks = [
            self._chunk(order[start : start + batch_size])
            for start in range(0, len(order), batch_size)
        ]

    def read(self, added: Tensor | None = None) -> NameScores:
        """
        Return the scores of all names with ``added`` [d_model] in the residual stream.

        Raises:
            InputError: if steering drives the model out of its range.
        """
        scores = np.empty(len(self.rows))
        for chunk in self._chunks:
            scores[chunk.rows] = self._read(chunk, added)
        if self.score == "token_mean":
            scores /= [len(row.name) for row in self.rows]
        half = len(self.rows) // 2
        return NameScores(holder=scores[:half], later=scores[half:])

    @torch.no_grad()
    def _chunk(self, rows: list[int]) -> _Chunk:
        layout = Layout.of(self.backend, [self.rows[row].prompt for row in rows])
        names, real = pad_rows([self.rows[row].name for row in rows])
        device = self.backend.device
        unread = self.positions == "all"
        state = None if unread else self.backend.read(layout.body, layout.mask)
        return _Chunk(rows, layout, names.to(device), real.bool(), state)

    @torch.no_grad()
    def _read(self, chunk: _Chunk, added: Tensor | None) -> Array:
        """Return the log-probabilities of a chunk's names [row]."""
        layout, (n, width) = chunk.layout, chunk.names.shape
        device = self.backend.device
        steered, context, offsets = False, nullcontext(), None
        if added is not None:
            offsets = added.float().cpu().expand(n, -1)
            vector = added.to(device, self.backend.dtype)

            def change(residual: Tensor) -> Tensor:
                return residual + vector if steered else residual

            context: Any = self.backend.intervene(self.hook_name, change)
        mask = layout.mask
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(n, width)], dim=1)
        total = torch.zeros(n, dtype=torch.float64)
        with context:
            state = chunk.state
            if state is None:
                steered = True
                state = self.backend.read(layout.body, layout.mask)
            state = self.backend.select(
                [state], torch.arange(n, device=device), room=width
            )
            tokens = layout.last
            for step in range(width):
                steered = step > 0 or self.positions != "generation"
                seen = (
                    None if mask is None else mask[:, : layout.body.shape[1] + step + 1]
                )
                logits = self.backend.step(state, tokens, seen, layout.lengths + step)
                require_numbers(logits, offsets)
                tokens = chunk.names[:, step]
                log_p = logits.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
                total += log_p.double().cpu() * chunk.real[:, step]
        return total.numpy()


@dataclass(frozen=True)
class _Chunk:
    """Rows that are read together."""

    rows: list[int]
    layout: Layout
    names: Tensor
    """Tokens, padded behind [row, width]."""
    real: Tensor
    """False at padding [row, width]."""
    state: Any
    """Of the questions but for their last tokens; None if steering changes them."""
