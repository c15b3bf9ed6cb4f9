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
from saereg_plugin.errors import InputError

LAYOUTS = ("model.layers", "gpt_neox.layers", "transformer.h")
"""Where Llama and its like, GPT-NeoX (Pythia) and GPT-2 keep their layers."""


class PlainBackend:
    """
    A causal model of transformers as a :class:`~eval_recipes.steering.generate.backend.Backend`.

    ``hook_resid_pre`` is what a layer takes, ``hook_resid_post`` what it gives.

    Raises:
        InputError: if the layers are at none of the known places.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.layers = _layers_of(model)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Numbers it computes in."""
        return self.model.dtype

    @contextmanager
    def intervene(self, hook_name: str, change: Change) -> Generator[None]:
        """Change the residual stream at a hook, while the context lasts."""
        layer, part = parse_hook(hook_name, len(self.layers))
        if part == "mid":
            raise InputError(
                f"Cannot steer at hook {hook_name!r} of a plain {type(self.model).__name__}: no "
                "module begins or ends there; expected hook_resid_pre or hook_resid_post. Load "
                "the model as a HookedTransformer for hook_resid_mid."
            )
        module = self.layers[layer]
        handle = (
            module.register_forward_pre_hook(_changed_input(change), with_kwargs=True)
            if part == "pre"
            else module.register_forward_hook(_changed_output(change))
        )
        try:
            yield
        finally:
            handle.remove()

    def read(self, tokens: Tensor, mask: Tensor | None) -> Cache:
        """Read tokens [batch, width], which may be none, and return the state."""
        cache = DynamicCache()
        if tokens.shape[1]:
            self._forward(tokens, mask, _positions(tokens, mask), cache)
        return cache

    def select(self, states: Sequence[Cache], rows: Tensor, room: int) -> Cache:
        """Return rows of several states, one after the other, with room for more tokens."""
        if not states[0].get_seq_length():
            return DynamicCache()
        layers = [
            _RoomyLayer(
                torch.cat([layer.keys for layer in group])[rows],
                torch.cat([layer.values for layer in group])[rows],
                room,
            )
            for group in zip(*(_attention_layers(state) for state in states))
        ]
        return Cache(layers=[*layers])

    def step(
        self, state: Cache, tokens: Tensor, mask: Tensor | None, positions: Tensor
    ) -> Tensor:
        """Read one more token of each row; return the next one's logits."""
        logits = self._forward(tokens[:, None], mask, positions[:, None], state)
        return logits[:, -1]

    def logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return logits [batch, position, vocabulary] of tokens padded behind."""
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
        self._kept = [_with_room(keys, room), _with_room(values, room)]
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


def _with_room(states: Tensor, room: int) -> Tensor:
    *shape, length, width = states.shape
    kept = states.new_zeros(*shape, length + room, width)
    kept[..., :length, :] = states
    return kept


def _attention_layers(state: Cache) -> list[Any]:
    return list(state.layers)


def _positions(tokens: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        mask = torch.ones_like(tokens)
    return (mask.cumsum(1) - 1).clamp(min=0)


def knows_layers(model: PreTrainedModel) -> bool:
    """Return whether a model's layers are at one of the known places."""
    return _found_layers(model) is not None


def _layers_of(model: PreTrainedModel) -> nn.ModuleList:
    found = _found_layers(model)
    if found is not None:
        return found
    raise InputError(
        f"Cannot find the layers of a {type(model).__name__}; expected a causal language model "
        f"that keeps them at {', '.join(LAYOUTS)}. Load it as a HookedTransformer instead."
    )


def _found_layers(model: PreTrainedModel) -> nn.ModuleList | None:
    for path in LAYOUTS:
        found: Any = model
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, nn.ModuleList):
            return found
    return None


def _changed_input(change: Change) -> Any:
    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        del module
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return hook


def _changed_output(change: Change) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        del module, args
        # Some layers give their attention, too.
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    return hook
