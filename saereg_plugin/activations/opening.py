"""Sources of activations, opened by their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saereg_plugin.activations.arrays import (
    ArraysConfig,
    ArraySource,
    describe_arrays,
    open_arrays,
)
from saereg_plugin.activations.cache import (
    INDEX,
    CacheConfig,
    describe_cache,
    open_cache,
)
from saereg_plugin.activations.config import ModuleConfig, SourceFacts, kind_of
from saereg_plugin.activations.extraction import (
    module_names,
    outputs_at,
    points_matching,
)
from saereg_plugin.activations.module import layout_of, source_of_loaded
from saereg_plugin.activations.rows import (
    are_equally_many,
    require_equal_rows,
    select_rows,
)
from saereg_plugin.activations.source import ActivationSource
from saereg_plugin.checks import absolute_path, as_list
from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs import Clip, InputData, Split, open_data
from saereg_plugin.sources.inputs.joined import JoinedData
from saereg_plugin.sources.modules import (
    LoadedModule,
    load_module,
    module_facts,
    module_identity,
)


@dataclass(frozen=True)
class Kind:
    """A kind of source: its settings, and how it is described and opened."""

    config: type[Any]
    describe: Callable[[Any, Split], SourceFacts]
    open: Callable[[Any, Split, str, str], ActivationSource]


def describe_source(given: Mapping[str, Any], *, split: Split = "train") -> SourceFacts:
    """
    Return what is known of a source before its model runs.

    Args:
        given: ``kind`` and the fields of that kind.
        split: part of the data.

    Raises:
        InputError: for an unknown kind, field, model, point or data, naming it.
    """
    kind = KINDS[kind_of(given, list(KINDS))]
    return kind.describe(kind.config(**given), split)


def complete_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the settings of a source with absolute paths; defaults are left out.

    Raises:
        InputError: for an unknown kind or field, or an unusable value.
    """
    return settings_of(KINDS[kind_of(given, list(KINDS))].config(**given))


def open_source(
    given: Mapping[str, Any],
    *,
    split: Split = "train",
    device: str = "cpu",
    dtype: str = "float32",
) -> ActivationSource:
    """
    Open a source by its settings.

    Args:
        given: ``kind`` and the fields of that kind.
        split: part of the data: train, heldout, or all.
        device: of the model.
        dtype: data type of the model.

    Raises:
        InputError: see ``describe_source``.
    """
    kind = KINDS[kind_of(given, list(KINDS))]
    return kind.open(kind.config(**given), split, device, dtype)


def _describe_module(config: ModuleConfig, split: Split) -> SourceFacts:
    data = _data_of(config, split)
    skeleton = module_facts(config.model, image_size=config.image_size)
    _require_fit(skeleton, data, config)
    points = points_matching(as_list(config.point), module_names(skeleton.module))
    outputs = _meta_outputs(skeleton, points)
    share = None if skeleton.takes == "images" else torch.ones(1)
    layout = layout_of(skeleton)
    shapes = {
        point: select_rows(
            outputs[point], config.rows, layout, share=share, point=point
        )[0].shape
        for point in points
    }
    require_equal_rows({point: shape[1] for point, shape in shapes.items()})
    rows = shapes[points[0]][1]
    return SourceFacts(
        model=config.model,
        data=data.name,
        points={point: shape[2] for point, shape in shapes.items()},
        n_inputs=len(data),
        rows_per_input=rows if are_equally_many(config.rows, share) else None,
        most_rows=len(data) * rows,
        parameters=_parameters(skeleton.module),
    )


def _meta_outputs(skeleton: LoadedModule, points: list[str]) -> dict[str, Tensor]:
    """Return the outputs of a model without weights on one blank input."""
    prepared = skeleton.prepare([_blank_input(skeleton)])
    with torch.no_grad():
        return outputs_at(
            skeleton.module, points, lambda: skeleton.module(**prepared.kwargs)
        )


def _blank_input(skeleton: LoadedModule) -> Any:
    """Return a black image, or a second of silence."""
    if skeleton.takes == "clips":
        return Clip(np.zeros(16_000, dtype=np.float32), 16_000)
    # of the extra vision, without which no model of images is opened
    from PIL import Image

    return Image.new("RGB", (64, 64))


def _open_module(
    config: ModuleConfig, split: Split, device: str, dtype: str
) -> ActivationSource:
    data = _data_of(config, split)
    loaded = load_module(
        config.model, dtype=dtype, device=device, image_size=config.image_size
    )
    _require_fit(loaded, data, config)
    return source_of_loaded(
        loaded,
        data,
        point=as_list(config.point),
        rows=config.rows,
        inputs_per_pass=config.inputs_per_pass,
        seed=config.seed,
        known_as=module_identity(config.model),
        recorded={"split": split, "config": settings_of(config)},
    )


def _open_arrays(
    config: ArraysConfig, split: Split, device: str, _dtype: str
) -> ArraySource:
    return open_arrays(config, split, device)


def _open_cache(
    config: CacheConfig, split: Split, device: str, _dtype: str
) -> ActivationSource:
    return open_cache(config.path, split, point=config.point, device=device)


def settings_of(config: Any) -> dict[str, Any]:
    """Return the fields of a source's settings that differ from their defaults, and its kind."""
    fields = {"kind": config.kind}
    for name, field in type(config).__dataclass_fields__.items():
        value = getattr(config, name)
        if value != field.default:
            fields[name] = list(value) if isinstance(value, tuple) else value
    return fields


def _data_of(config: ModuleConfig, split: Split) -> InputData:
    parts = [open_data(name, split) for name in as_list(config.data)]
    return parts[0] if len(parts) == 1 else JoinedData(parts)


def _require_fit(loaded: LoadedModule, data: InputData, config: ModuleConfig) -> None:
    """Refuse images for a model of sound, and sound for a model of images."""
    if loaded.takes != data.takes:
        raise InputError(
            f"Model {config.model!r} takes {loaded.takes}, but data {data.name!r} holds "
            f"{data.takes}. Choose other data, or another model."
        )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def source_at(path: str) -> dict[str, Any]:
    """
    Return the settings of the source that a path holds: a cache, or arrays.

    Raises:
        InputError: if there is nothing.
    """
    there = Path(absolute_path(path))
    if not there.exists():
        hint = "Expected for example 'module', a cache, or a folder of arrays."
        if path in KINDS:
            hint = f"Of the kind {path!r} give the path itself."
        raise InputError(
            f"Source {path!r} is neither 'module', 'language_model' nor a path that exists. {hint}"
        )
    kind = "cache" if (there / INDEX).is_file() else "arrays"
    return {"kind": kind, "path": str(there)}


KINDS: Mapping[str, Kind] = {
    "module": Kind(ModuleConfig, _describe_module, _open_module),
    "arrays": Kind(ArraysConfig, describe_arrays, _open_arrays),
    "cache": Kind(CacheConfig, describe_cache, _open_cache),
}
"""Kinds of sources besides language models, by the word in ``source: {kind: ...}``."""
