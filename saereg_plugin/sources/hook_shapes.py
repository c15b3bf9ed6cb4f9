"""Widths of hooks and sizes of models, found without loading weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from sae_lens.util import extract_layer_from_tlens_hook_name
from transformer_lens import HookedTransformerConfig
from transformer_lens.loading_from_pretrained import (
    get_official_model_name,
    get_pretrained_model_config,
)
from transformers import AutoConfig, AutoModelForCausalLM

from saereg_plugin.errors import InputError, suggest
from saereg_plugin.sources.models import (
    HookedTransformer,
    ensure,
    ignore_deprecation,
)

_PROBE_TOKENS = 11
"""Length of the probed input; no model has as many heads."""


def hook_shape(
    name: str,
    hook_name: str,
    hook_head_index: int | None = None,
    model_class_name: str = "HookedTransformer",
) -> int:
    """
    Return the width of the activation at a hook, without loading weights.

    The model is built and run on torch's meta device. The width is that of all heads
    together, unless a head is chosen.

    Raises:
        InputError: if the model, the hook or the head does not exist.
    """
    folder = ensure(name, model_class_name=model_class_name)
    if model_class_name == "HookedTransformer":
        shape = _transformer_lens_shape(name, hook_name)
    elif model_class_name == "AutoModelForCausalLM":
        shape = _transformers_shape(name if folder is None else str(folder), hook_name)
    else:
        raise InputError(
            f"Unknown model class {model_class_name!r}. "
            + suggest(model_class_name, ["HookedTransformer", "AutoModelForCausalLM"])
        )
    if shape[:2] != (1, _PROBE_TOKENS):
        raise InputError(
            f"Hook {hook_name!r} has shape {tuple(shape)} on one text of {_PROBE_TOKENS} tokens; "
            "expected one vector (or one a head) for each token. Choose another hook."
        )
    features = shape[2:]
    if hook_head_index is None:
        return features.numel()
    if len(features) != 2 or not 0 <= hook_head_index < features[0]:
        heads = f"{features[0]} heads" if len(features) == 2 else "no heads"
        raise InputError(
            f"Hook {hook_name!r} has {heads}; head {hook_head_index} does not exist."
        )
    return features[1]


def d_in_of(model: str, hook_name: str, *, head: int | None = None) -> int:
    """
    Return the ``d_in`` of an SAE on a hook of a TransformerLens model, without its weights.

    SAELens' configurations want it by hand; ``SweepConfig`` and ``train`` find it alone.
    Example::

        import saereg_plugin as sr

        hook = "blocks.4.hook_resid_post"
        sae = sr.RegularizedTopKTrainingSAEConfig(
            d_in=sr.d_in_of("smollm2-135m-instruct", hook), d_sae=4608, k=32
        )

    Args:
        model: see ``models.ensure``.
        hook_name: a hook of TransformerLens.
        head: one head of a hook by heads; by default all heads together.

    Raises:
        InputError: if the model, the hook or the head does not exist.
    """
    return hook_shape(model, hook_name, head)


def hook_names(name: str) -> list[str]:
    """Return the hooks of a TransformerLens model, built on torch's meta device."""
    ensure(name)
    with warnings.catch_warnings(), torch.device("meta"):
        ignore_deprecation()
        model = HookedTransformer(_config(name), move_to_device=False)
    return list(model.hook_dict)


def _transformer_lens_shape(name: str, hook_name: str) -> torch.Size:
    config = _config(name)
    # layers above the hook cannot change its shape, and cost most of the time
    layer = extract_layer_from_tlens_hook_name(hook_name)
    if layer is not None:
        config.n_layers = min(config.n_layers, layer + 1)
    with warnings.catch_warnings(), torch.device("meta"):
        ignore_deprecation()
        model = HookedTransformer(config, move_to_device=False)
        _require_hook(hook_name, model.hook_dict, name)
        _, cache = model.run_with_cache(
            torch.zeros(1, _PROBE_TOKENS, dtype=torch.long),
            names_filter=hook_name,
            return_type=None,
        )
    if hook_name not in cache:
        raise InputError(
            f"Hook {hook_name!r} of model {name!r} is never run in a forward pass."
        )
    return cache[hook_name].shape


def _config(name: str) -> HookedTransformerConfig:
    config = get_pretrained_model_config(get_official_model_name(name), device="meta")
    # the vocabulary's size is in the model's config: no tokenizer is read
    config.tokenizer_name = None
    return config


def _transformers_shape(name: str, hook_name: str) -> torch.Size:
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    shapes: list[torch.Size] = []

    def record(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        shapes.append(tensor.shape)

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        modules = dict(model.named_modules())
        _require_hook(hook_name, [module for module in modules if module], name)
        with modules[hook_name].register_forward_hook(record):
            # without a cache, transformers looks for packed sequences in the values of
            # positions, which a meta tensor does not have
            model(torch.zeros(1, _PROBE_TOKENS, dtype=torch.long), use_cache=True)
    if not shapes:
        raise InputError(
            f"Module {hook_name!r} of model {name!r} is never run in a forward pass."
        )
    return shapes[0]


def _require_hook(hook_name: str, hooks: Iterable[str], name: str) -> None:
    known = list(hooks)
    if hook_name not in known:
        raise InputError(
            f"Model {name!r} has no hook {hook_name!r}. {suggest(hook_name, known)}"
        )


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of a model under TransformerLens."""

    context_size: int
    """Longest context, in tokens."""
    parameters: int
    layers: int


def model_facts(name: str) -> ModelFacts:
    """
    Return the sizes of a model; builds one of its layers on torch's meta device.

    Raises:
        InputError: if the model does not exist, see ``models.ensure``.
    """
    ensure(name)
    config = _config(name)
    counts = [_parameters(replace(config, n_layers=layers)) for layers in (0, 1)]
    layer = counts[1] - counts[0]
    parameters = counts[0] + config.n_layers * layer
    return ModelFacts(config.n_ctx, parameters, config.n_layers)


def context_limit(name: str) -> int:
    """Return the longest context of a model that is there already, in tokens."""
    return int(_config(name).n_ctx)


def require_context(name: str, context_size: int) -> None:
    """Refuse contexts that are longer than a model's longest."""
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
