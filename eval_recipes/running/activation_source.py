"""Model and hook that an SAE reads, from its metadata."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from sae_lens import SAE

from eval_recipes.running.context import RunContext
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.sources.models import LanguageModel


class Source(NamedTuple):
    """What decides the activations an SAE reads: SAEs that agree share one pass."""

    model_name: str
    hook_name: str
    hook_head_index: int | None
    context_size: int
    prepend_bos: bool
    seqpos_slice: tuple[int | None, ...]
    disable_concat_sequences: bool
    sequence_separator_token: int | str | None
    model_kwargs: str
    """Further arguments of the model's loader, as JSON."""


def source_of(sae: SAE[Any], *, context_size: int | None) -> Source:
    """
    Return where the activations of an SAE come from, as its metadata says.

    Raises:
        InputError: if the metadata does not say it; the message names the field.
    """
    metadata = sae.cfg.metadata
    size = context_size or metadata.context_size
    required = {
        "model_name": metadata.model_name,
        "hook_name": metadata.hook_name,
        "context_size": size,
        "prepend_bos": metadata.prepend_bos,
    }
    missing = [name for name, value in required.items() if value is None]
    if missing:
        raise InputError(
            f"The SAE's metadata lacks {', '.join(missing)}; expected what SAELens "
            "stores after training. Add it to the metadata in the SAE's cfg.json."
        )
    kwargs = dict(metadata.model_from_pretrained_kwargs or {})
    if kwargs.get("center_writing_weights") is False:
        # the default, which SAELens' runner writes down
        del kwargs["center_writing_weights"]
    return Source(
        model_name=metadata.model_name,
        hook_name=metadata.hook_name,
        hook_head_index=metadata.hook_head_index,
        context_size=size,
        prepend_bos=metadata.prepend_bos,
        seqpos_slice=tuple(metadata.seqpos_slice or (None,)),
        disable_concat_sequences=bool(metadata.disable_concat_sequences),
        sequence_separator_token=metadata.get("sequence_separator_token", "bos"),
        model_kwargs=json.dumps(kwargs, sort_keys=True),
    )


def read_model(
    context: RunContext, sae: SAE[Any], *, context_size: int | None = None
) -> tuple[Source, LanguageModel]:
    """
    Return where an SAE's activations come from, and the model, loaded at most once.

    ``context_size``, tokens in one context, is the run's by default, else the SAE's own.

    Raises:
        InputError: for incomplete metadata, or a hook that the model does not have.
    """
    source = source_of(sae, context_size=context_size or context.context_size)
    model = context.models.get(
        source.model_name,
        dtype=context.dtype,
        device=context.device,
        model_kwargs=source.model_kwargs,
    )
    check_hook(model, source.hook_name)
    return source, model


def model_determinants(context: RunContext, source: Source) -> dict[str, Any]:
    """Return what decides an artefact made with the language model: name, weights, arguments."""
    return {
        "model": source.model_name,
        "model_identity": context.models.identity(source.model_name),
        "model_kwargs": source.model_kwargs,
    }


def check_hook(model: LanguageModel, hook_name: str) -> None:
    """
    Refuse a hook the model does not have.

    Raises:
        InputError: names the hook and the nearest one.
    """
    if hook_name not in model.hook_dict:
        raise InputError(
            f"Hook {hook_name!r} is not in the model; expected a TransformerLens "
            f"hook name. {suggest(hook_name, model.hook_dict)}"
        )
