"""Sizes of a language model, found without its weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.loading_from_pretrained import (
    get_official_model_name,
    get_pretrained_model_config,
)

from saereg_plugin.errors import InputError
from saereg_plugin.sources.models import ensure, ignore_deprecation


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of a model as TransformerLens loads it."""

    context_size: int
    """Longest context, in tokens."""
    parameters: int


def model_facts(name: str) -> ModelFacts:
    """
    Return the sizes of a model; builds one of its layers on torch's meta device.

    Raises:
        InputError: if the model does not exist, see ``models.ensure``.
    """
    ensure(name)
    config = get_pretrained_model_config(get_official_model_name(name), device="meta")
    config.tokenizer_name = None
    counts = [_parameters(replace(config, n_layers=layers)) for layers in (0, 1)]
    layer = counts[1] - counts[0]
    return ModelFacts(config.n_ctx, counts[0] + config.n_layers * layer)


def require_context(name: str, context_size: int) -> None:
    """Refuse contexts that are longer than a model's longest; see ``model_facts``."""
    most = model_facts(name).context_size
    if context_size > most:
        raise InputError(
            f"context_size={context_size} is more than model {name!r} takes; expected at most "
            f"{most} tokens."
        )


def _parameters(config: HookedTransformerConfig) -> int:
    with warnings.catch_warnings(), torch.device("meta"):
        ignore_deprecation()
        model = HookedTransformer(config, move_to_device=False)
    return sum(parameter.numel() for parameter in model.parameters())
