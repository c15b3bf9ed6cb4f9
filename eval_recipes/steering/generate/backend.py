"""What steering needs of a language model, whichever library computes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from saereg_plugin.errors import InputError

Change = Callable[[Tensor], Tensor]
"""Takes the residual stream [batch, position, d_model] and returns what takes its place."""

_RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|mid|post)")


class ResidualHook(NamedTuple):
    """A place in the residual stream: ``pre``, ``mid`` or ``post`` of a layer."""

    layer: int
    part: str


class Backend(Protocol):
    """
    A causal language model, its residual stream open to changes.

    A state is what the model keeps of the tokens it has read: keys and values. Masks are 1 at
    tokens and 0 at padding; None means no padding at all. Padding stands behind a prompt, so
    that every query sees a token, and the mask and the positions step over it.
    """

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Numbers it computes in."""
        ...

    def intervene(self, hook_name: str, change: Change) -> AbstractContextManager[None]:
        """Change the residual stream at a hook, while the context lasts."""
        ...

    def read(self, tokens: Tensor, mask: Tensor | None) -> Any:
        """Read tokens [batch, width], which may be none, and return the state."""
        ...

    def select(self, states: Sequence[Any], rows: Tensor, room: int) -> Any:
        """Return rows of several states, one after the other, with room for more tokens."""
        ...

    def step(
        self, state: Any, tokens: Tensor, mask: Tensor | None, positions: Tensor
    ) -> Tensor:
        """
        Read one more token of each row; return the next one's logits [batch, vocabulary].

        Args:
            state: of the tokens so far; it grows.
            tokens: [batch].
            mask: of all tokens so far, these included.
            positions: place of each among its text's tokens, from 0.
        """
        ...

    def logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return logits [batch, position, vocabulary] of tokens padded behind."""
        ...


def parse_hook(hook_name: str, n_layers: int) -> ResidualHook:
    """
    Read the name of a hook in the residual stream.

    Raises:
        InputError: if it is another hook, or in a layer that the model has not.
    """
    match = _RESIDUAL.fullmatch(hook_name)
    if match is None:
        raise InputError(
            f"Cannot steer at hook {hook_name!r}; expected one in the residual stream, such "
            "as 'blocks.4.hook_resid_post'."
        )
    layer = int(match[1])
    if layer >= n_layers:
        raise InputError(
            f"Hook {hook_name!r} is in layer {layer}; expected one below {n_layers}, as many "
            "as the model has."
        )
    return ResidualHook(layer, match[2])
