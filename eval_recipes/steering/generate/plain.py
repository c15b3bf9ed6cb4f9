"""Steering on causal language models of transformers, hooked by module."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from eval_recipes.steering.generate.backend import Change, parse_hook
from saereg_plugin.activations.hooks import change_input, change_output
from saereg_plugin.errors import InputError

LAYOUTS = ("model.layers", "gpt_neox.layers", "transformer.h")
"""Where Llama and its like, GPT-NeoX (Pythia) and GPT-2 keep their layers."""


class PlainBackend:
    """
    A causal model of transformers as a :class:`~eval_recipes.steering.generate.backend.Backend`.

    ``hook_resid_pre`` is the input of a layer, ``hook_resid_post`` its output.

    Raises:
        InputError: if the layers are at none of the known places.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        layers = find_layers(model)
        if layers is None:
            raise InputError(
                f"Cannot find the layers of a {type(model).__name__}; expected a causal "
                f"language model that keeps them at {', '.join(LAYOUTS)}. Load it as a "
                "HookedTransformer instead."
            )
        self.model = model
        self.layers = layers

    @property
    def d_model(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @contextmanager
    def intervene(self, hook_name: str, change: Change) -> Generator[None]:
        layer, part = parse_hook(hook_name, len(self.layers))
        if part == "mid":
            raise InputError(
                f"Cannot steer at hook {hook_name!r} of a plain {type(self.model).__name__}: no "
                "module begins or ends there; expected hook_resid_pre or hook_resid_post. Load "
                "the model as a HookedTransformer for hook_resid_mid."
            )

        at = change_input if part == "pre" else change_output
        with at(self.layers[layer], change):
            yield

    def read(self, tokens: Tensor, mask: Tensor | None) -> Cache:
        cache = DynamicCache()
        if tokens.shape[1]:
            self._forward(tokens, mask, _positions(tokens, mask), cache)
        return cache

    def select(self, states: Sequence[Cache], rows: Tensor, room: int) -> Cache:
        if not states[0].get_seq_length():
            return DynamicCache()
        by_layer: list[list[Any]] = [list(state.layers) for state in states]
        layers = [
            _RoomyLayer(
                torch.cat([layer.keys for layer in group])[rows],
                torch.cat([layer.values for layer in group])[rows],
                room,
            )
            for group in zip(*by_layer)
        ]
        return Cache(layers=[*layers])

    def step(
        self, state: Cache, tokens: Tensor, mask: Tensor | None, positions: Tensor
    ) -> Tensor:
        logits = self._forward(tokens[:, None], mask, positions[:, None], state)
        return logits[:, -1]

    def logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self._forward(tokens, mask, _positions(tokens, mask), None, keep=0)

    def _forward(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        cache: Cache | None,
        keep: int = 1,
    ) -> Tensor:
        output: Any = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=keep,
        )
        return output.logits


class _RoomyLayer(DynamicLayer):
    """Keys and values [batch, head, token, width] in one piece of memory, never copied."""

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        # zeros behind the tokens: room for new tokens
        self._kept = [
            nn.functional.pad(states, (0, 0, 0, room)) for states in (keys, values)
        ]
        self._show(keys.shape[-2])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add new tokens and return all."""
        del args, kwargs
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        for kept, states in zip(self._kept, (key_states, value_states), strict=True):
            kept[..., old:new, :] = states
        return self._show(new)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        keys, values = (kept[..., :length, :] for kept in self._kept)
        self.keys, self.values = keys, values
        return keys, values


def _positions(tokens: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        mask = torch.ones_like(tokens)
    return (mask.cumsum(1) - 1).clamp(min=0)


def find_layers(model: PreTrainedModel) -> nn.ModuleList | None:
    """Return a model's layers, or None if they are at no known place."""
    for path in LAYOUTS:
        found: Any = model
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, nn.ModuleList):
            return found
    return None
