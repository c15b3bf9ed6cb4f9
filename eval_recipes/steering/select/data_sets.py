"""Latents that separate two data sets of an SAE's own kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from eval_recipes.running.context import RunContext
from eval_recipes.select.inputs import select_latents
from eval_recipes.select.separation import Selection
from eval_recipes.steering.generate.language_model import (
    LanguageModel,
    language_model,
    residuals,
)
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select.contrast import TextSets
from saereg_plugin.activations.opening import open_source
from saereg_plugin.activations.passes import Pass
from saereg_plugin.activations.source import InputSource
from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs import Split

Inputs = Iterable[Pass] | InputSource


def select_by_data(
    sae: SAE[Any],
    first: str,
    second: str,
    *,
    split: Split = "train",
    device: str = "cpu",
    **options: Any,
) -> Selection:
    """
    Choose the latents of an SAE that separate two data sets.

    Args:
        sae: an SAE of a language model, or of a module that is opened by name.
        first: with the target property: a file of texts, one a line, for a language model;
            else data by name, or a folder.
        second: without it.
        split: part of the data that is read; files of texts have one part.
        device: of the model.
        options: see ``select_latents``.

    Raises:
        InputError: if the SAE's source cannot be opened by name, or the data cannot be read.
    """
    recorded = sae.cfg.metadata.get("activation_source")
    sets = (
        _texts(sae, (first, second), device)
        if recorded is None
        else [_source(sae, recorded, data, split, device) for data in (first, second)]
    )
    point = sae.cfg.metadata.hook_name
    return select_latents(sae, *sets, point=point, **options)


def _source(
    sae: SAE[Any], recorded: Mapping[str, Any], data: str, split: Split, device: str
) -> InputSource:
    """Return the SAE's own source on other data."""
    settings = recorded.get("config")
    if recorded.get("kind") != "module" or settings is None:
        raise InputError(
            f"The SAE was trained on {recorded.get('kind')!r} activations that no name opens; "
            "expected those of a module by name, or of a language model. Call select_latents with "
            "your sources instead."
        )
    point = sae.cfg.metadata.hook_name
    source = open_source(
        {**settings, "data": data, "point": point}, split=split, device=device
    )
    assert isinstance(source, InputSource)
    return source


def _texts(sae: SAE[Any], paths: Sequence[str], device: str) -> list[Iterator[Pass]]:
    """Return passes over two files of texts."""
    sets = TextSets.read(paths)
    context = RunContext(subjects=[], out=Path(), device=device)
    model = language_model(context, sae, SteeringEvalConfig())
    return [text_passes(model, sae, texts) for texts in (sets.a, sets.b)]


def text_passes(
    model: LanguageModel, sae: SAE[Any], texts: Sequence[str]
) -> Iterator[Pass]:
    """Yield passes over texts at an SAE's hook; special tokens do not count."""
    metadata, first = sae.cfg.metadata, 0
    hook_name, prepend_bos = metadata.hook_name, metadata.prepend_bos is not False
    assert hook_name is not None
    for vectors, keep in residuals(model, texts, hook_name, prepend_bos=prepend_bos):
        inputs = torch.arange(first, first + len(vectors))
        yield Pass({hook_name: vectors}, keep, inputs)
        first += len(vectors)
