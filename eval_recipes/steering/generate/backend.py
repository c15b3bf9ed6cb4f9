"""The interface between steering and a language model, and TransformerLens' backend."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.cache.key_value_cache_entry import (
    TransformerLensKeyValueCacheEntry,
)

from saereg_plugin.errors import InputError
from saereg_plugin.sources.models import LanguageModel

Change = Callable[[Tensor], Tensor]
"""Takes the residual stream [batch, position, d_model] and returns its replacement."""

_RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|mid|post)")


class ResidualHook(NamedTuple):
    """A place in the residual stream: ``pre``, ``mid`` or ``post`` of a layer."""

    layer: int
    part: str


class Backend(Protocol):
    """
    A causal language model whose residual stream can be changed.

    A state holds the keys and values of the tokens read so far. Masks are 1 at tokens and 0 at
    padding; None means no padding at all. Padding is behind a prompt, so that every query sees
    a token, and the mask and the positions step over it.
    """

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Data type the model computes in."""
        ...

    def intervene(self, hook_name: str, change: Change) -> AbstractContextManager[None]:
        """Change the residual stream at a hook while the context lasts."""
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
        Read one more token of each row; return logits [batch, vocabulary] of the next.

        Args:
            state: of the tokens so far; it grows.
            tokens: [batch].
            mask: of all tokens so far, including these.
            positions: place of each token in its text, from 0.
        """
        ...

    def logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return logits [batch, position, vocabulary] of tokens padded behind."""
        ...


def in_residual_stream(hook_name: str) -> bool:
    """Return whether a hook's name is one of the residual stream."""
    return _RESIDUAL.fullmatch(hook_name) is not None


def parse_hook(hook_name: str, n_layers: int) -> ResidualHook:
    """
    Read the name of a hook in the residual stream.

    Raises:
        InputError: if it is another hook, or in a layer that the model lacks.
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


def pad_rows(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return rows of tokens padded behind, and their mask, each [row, width]."""
    lengths = torch.tensor([[len(row)] for row in rows])
    tokens = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True
    )
    return tokens, (torch.arange(tokens.shape[1]) < lengths).long()


class HookedBackend:
    """A HookedTransformer as a :class:`~eval_recipes.steering.generate.backend.Backend`."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    @property
    def d_model(self) -> int:
        return self.model.cfg.d_model

    @property
    def device(self) -> torch.device:
        return self.model.W_E.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.cfg.dtype

    @contextmanager
    def intervene(self, hook_name: str, change: Change) -> Generator[None]:
        parse_hook(hook_name, self.model.cfg.n_layers)
        if hook_name not in self.model.hook_dict:
            raise InputError(
                f"The model has no hook {hook_name!r} (attention and MLP run in parallel, "
                "so nothing is between them); expected its hook_resid_pre or hook_resid_post."
            )

        def changed(residual: Tensor, hook: Any) -> Tensor:
            del hook
            return change(residual)

        with self.model.hooks(fwd_hooks=[(hook_name, changed)]):
            yield

    def read(self, tokens: Tensor, mask: Tensor | None) -> TransformerLensKeyValueCache:
        cache = TransformerLensKeyValueCache.init_cache(
            self.model.cfg, self.device, len(tokens)
        )
        if tokens.shape[1]:
            mask = torch.ones_like(tokens) if mask is None else mask
            self._forward(tokens, mask, cache, self.model.cfg.n_layers)
        return cache

    def select(
        self,
        states: Sequence[TransformerLensKeyValueCache],
        rows: Tensor,
        room: int,
    ) -> TransformerLensKeyValueCache:
        del room  # TransformerLens' entries grow by concatenation
        entries = [
            TransformerLensKeyValueCacheEntry(
                past_keys=torch.cat([entry.past_keys for entry in layer])[rows],
                past_values=torch.cat([entry.past_values for entry in layer])[rows],
            )
            for layer in zip(*(state.entries for state in states), strict=True)
        ]
        masks = torch.cat([state.previous_attention_mask for state in states])
        return TransformerLensKeyValueCache(
            entries=entries, previous_attention_mask=masks[rows]
        )

    def step(
        self,
        state: TransformerLensKeyValueCache,
        tokens: Tensor,
        mask: Tensor | None,
        positions: Tensor,
    ) -> Tensor:
        # TransformerLens extends the state's own mask and counts positions by it.
        del mask, positions
        logits = self._forward(tokens[:, None], torch.ones_like(tokens[:, None]), state)
        return logits[:, -1]

    def logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self._forward(tokens, mask, None)

    def _forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        cache: TransformerLensKeyValueCache | None,
        stop_at_layer: int | None = None,
    ) -> Tensor:
        return self.model(
            tokens,
            return_type="logits",
            attention_mask=mask,
            past_kv_cache=cache,
            stop_at_layer=stop_at_layer,
        )
