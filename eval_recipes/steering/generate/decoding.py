"""Decoding settings, and positions that are steered."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from saereg_plugin.errors import InputError, suggest

Positions = Literal["generation", "prompt_end", "all"]
"""
Which positions are steered.

- ``generation``: those of the new tokens. What a hook does that leaves out the pass over the
  prompt; the first new token is chosen before any steering.
- ``prompt_end``: the last token of the prompt, too, hence every choice of a new token.
- ``all``: the whole text, BOS included.
"""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """
    How texts are continued; the defaults are the setting of arXiv 2603.04198.

    Raises:
        InputError: for unusable values.
    """

    new_tokens: int = 30
    """Tokens that are made, always as many."""

    greedy: bool = False
    """Take the likeliest token instead of a sample."""

    temperature: float = 0.7
    top_p: float = 0.9
    """Of samples."""

    stop_at_eos: bool = False
    """End a text before its first EOS; the published setting goes on."""

    seed: int = 0

    def __post_init__(self) -> None:
        if self.new_tokens < 1:
            raise InputError(f"new_tokens is {self.new_tokens}; expected 1 or more.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(
                f"temperature is {self.temperature}; expected a positive number. For the "
                "likeliest token use greedy decoding."
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; expected more than 0, at most 1.")


@dataclass(frozen=True)
class Request:
    """
    One text to make.

    Attributes:
        prompt: index of its prompt.
        sample: which of the prompt's streams of random numbers it uses; any whole number.
        vector: index of the direction that is added; None for none.
        strength: what the direction is multiplied by.
    """

    prompt: int
    sample: int = 0
    vector: int | None = None
    strength: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Steering:
    """
    Directions and where they are added: ``h <- h + strength * vectors[i]``.

    Attributes:
        hook_name: a hook in the residual stream.
        vectors: [n, d_model], usually of norm 1.
        positions: which positions are steered.
    """

    hook_name: str
    vectors: Tensor
    positions: Positions = "generation"

    def __post_init__(self) -> None:
        if self.positions not in get_args(Positions):
            raise InputError(
                f"Unknown positions {self.positions!r}. "
                f"{suggest(self.positions, get_args(Positions))}"
            )
        if self.vectors.ndim != 2:
            raise InputError(
                f"vectors have shape {tuple(self.vectors.shape)}; expected [n, d_model]."
            )

    def offsets(self, requests: list[Request]) -> Tensor:
        """
        Return what is added to each request's residual stream [request, d_model].

        Raises:
            InputError: for a strength that is not finite, or a vector that is not there.
        """
        added = torch.zeros(len(requests), self.vectors.shape[1])
        for row, request in enumerate(requests):
            if request.vector is None:
                continue
            if not 0 <= request.vector < len(self.vectors):
                raise InputError(
                    f"A request names vector {request.vector}; expected one of the "
                    f"{len(self.vectors)} given."
                )
            if not math.isfinite(request.strength):
                raise InputError(
                    f"The strength of vector {request.vector} is {request.strength}; expected "
                    "a finite number. Leave out latents that have none."
                )
            vector = self.vectors[request.vector].detach().float().cpu()
            added[row] = request.strength * vector
        return added


@dataclass(frozen=True)
class Continuation:
    """
    What was written after a prompt.

    Attributes:
        tokens: the new tokens.
        text: them as text.
        near_ties: choices among them that rounding might turn into others.
        first_near_tie: place of the first such choice, None if there is none.
    """

    tokens: tuple[int, ...]
    text: str
    near_ties: int = 0
    first_near_tie: int | None = None
