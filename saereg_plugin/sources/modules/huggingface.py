"""Vision and audio models of transformers, from a folder or the hub."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSpeechSeq2Seq,
)

from saereg_plugin.errors import InputError
from saereg_plugin.machine import require_extra
from saereg_plugin.sources.inputs.data import Clip
from saereg_plugin.sources.inputs.sound import resampled
from saereg_plugin.sources.modules.loaded import (
    LoadedModule,
    Prepared,
    on_module,
    require_size,
)

_SOUND = ("input_features", "input_values")
_CLASS_TOKENS = ("cls_token", "class_embedding")
_OTHER_TOKENS = ("register_tokens", "distillation_token")
_TOLD = (
    *("size", "crop_size", "do_center_crop", "crop_pct", "resample", "rescale_factor"),
    *("image_mean", "image_std", "sampling_rate", "chunk_length", "do_normalize"),
)
"""Settings of an image processor or feature extractor that metadata tells."""


_DAMAGED = (
    AttributeError,
    ImportError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)
"""Errors that transformers raises on damaged or unknown folders."""


def open_transformers(
    name: str, place: str | Path, *, image_size: int | None, weights: bool
) -> LoadedModule:
    """
    Return a vision or audio model of transformers; of a pair of towers the vision model.

    Args:
        name: what the user calls it.
        place: a folder or a hub repository.
        image_size: side of the images in pixels; None for the model's own.
        weights: False builds it on torch's meta device.

    Raises:
        InputError: if it cannot be read, or takes neither images nor sound.
    """
    model = _read(name, place, weights)
    module: nn.Module = getattr(model, "vision_model", model)
    takes = getattr(module, "main_input_name", "")
    if takes == "pixel_values":
        return _images(name, place, module, image_size)
    if takes in _SOUND:
        return _clips(name, place, module)
    raise InputError(
        f"Model {name!r} ({type(model).__name__}) reads {takes!r}; expected a model of images or "
        "sound. A language model needs no source of its own: name it with --model."
    )


def _read(name: str, place: str | Path, weights: bool) -> Any:
    """Return the model in evaluation mode, its weights in float32 or on the meta device."""
    try:
        config: Any = AutoConfig.from_pretrained(place, trust_remote_code=False)
        known: Any = AutoModel
        if type(config) in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING:
            known = AutoModelForSpeechSeq2Seq
        elif type(config) not in MODEL_MAPPING:
            raise ValueError(f"{type(config).__name__} has no model")
        if weights:
            model = known.from_pretrained(
                place, dtype=torch.float32, trust_remote_code=False
            )
        else:
            with torch.device("meta"):
                model = known.from_config(config, dtype=torch.float32)
    except _DAMAGED as error:
        raise _unreadable("model", name, place, error) from error
    return model.eval()


def _unreadable(
    what: str, name: str, place: str | Path, error: Exception
) -> InputError:
    return InputError(
        f"transformers cannot read the {what} of {name!r} in {str(place)!r} "
        f"({type(error).__name__}: {error}); expected a folder or repository that "
        "`from_pretrained` opens. Download or save it again."
    )


def _images(
    name: str, place: str | Path, module: nn.Module, image_size: int | None
) -> LoadedModule:
    require_extra("vision", f"The model {name!r}")
    try:
        processor: Any = AutoImageProcessor.from_pretrained(
            place, trust_remote_code=False
        )
    except _DAMAGED as error:
        raise _unreadable("image processor", name, place, error) from error
    config: Any = module.config
    require_size(image_size, _patch(config), name)
    sizes = {} if image_size is None else _sizes(processor, image_size)
    extra: dict[str, Any] = {}
    forward = inspect.signature(module.forward).parameters
    if image_size is not None and "interpolate_pos_encoding" in forward:
        extra["interpolate_pos_encoding"] = True

    def prepare(images: Sequence[Any]) -> Prepared:
        found = processor(images=list(images), return_tensors="pt", **sizes)
        kwargs = {key: value for key, value in found.items() if key in forward}
        return Prepared(on_module({**kwargs, **extra}, module), None)

    prefix, has_class = prefix_tokens(module)
    return LoadedModule(
        name=name,
        module=module,
        takes="images",
        prepare=prepare,
        prefix_tokens=prefix,
        has_class_token=has_class,
        preprocessing={**_told(processor), **sizes},
    )


def _patch(config: Any) -> int:
    patch = getattr(config, "patch_size", None)
    return patch if isinstance(patch, int) else 1


def _sizes(processor: Any, image_size: int) -> dict[str, dict[str, int]]:
    """Return a processor's sizes for other images; the share that is cropped stays."""
    square = {"height": image_size, "width": image_size}
    size = _plain(processor.size)
    crop = _plain(getattr(processor, "crop_size", None))
    if getattr(processor, "do_center_crop", False) and crop:
        before = size.get("shortest_edge") or size["height"]
        edge = round(before * image_size / crop["height"])
        wider = {"height": edge, "width": edge}
        return {
            "size": {"shortest_edge": edge} if "shortest_edge" in size else wider,
            "crop_size": square,
        }
    return {
        "size": {"shortest_edge": image_size} if "shortest_edge" in size else square
    }


def _plain(size: Any) -> dict[str, int]:
    """Return a size of a processor as a dictionary of what is set."""
    if isinstance(size, int):
        return {"height": size, "width": size}
    return {name: int(value) for name, value in dict(size or {}).items() if value}


def prefix_tokens(module: nn.Module) -> tuple[int, bool]:
    """Return how many tokens a model puts before the patches, and whether one is a class token."""
    wrapped = getattr(module, "timm_model", module)
    if hasattr(wrapped, "num_prefix_tokens"):
        count = int(getattr(wrapped, "num_prefix_tokens"))
        return count, count > 0 and bool(getattr(wrapped, "has_class_token", True))
    shapes = {
        path.rpartition(".")[2]: value.shape
        for path, value in module.named_parameters()
    }
    classes = sum(name in shapes for name in _CLASS_TOKENS)
    others = sum(shapes[name][1] for name in _OTHER_TOKENS if name in shapes)
    return classes + others, classes > 0


def _clips(name: str, place: str | Path, module: nn.Module) -> LoadedModule:
    require_extra("audio", f"The model {name!r}")
    try:
        extractor: Any = AutoFeatureExtractor.from_pretrained(
            place, trust_remote_code=False
        )
    except _DAMAGED as error:
        raise _unreadable("feature extractor", name, place, error) from error

    def prepare(clips: Sequence[Clip]) -> Prepared:
        waves = [resampled(clip, extractor.sampling_rate) for clip in clips]
        found = extractor(
            waves, sampling_rate=extractor.sampling_rate, return_tensors="pt", **padding
        )
        return Prepared(on_module(found, module), _share(found, waves, extractor))

    # Whisper's window is always 30 s; other models are padded to the longest clip
    padding = {} if hasattr(extractor, "n_samples") else {"padding": True}
    return LoadedModule(
        name=name,
        module=module,
        takes="clips",
        prepare=prepare,
        prefix_tokens=0,
        has_class_token=False,
        preprocessing=_told(extractor),
    )


def _share(
    found: Mapping[str, Tensor], waves: Sequence[np.ndarray[Any, Any]], extractor: Any
) -> Tensor:
    """Return the part of each clip's window that is sound; a longer clip is cut."""
    lengths = torch.tensor([len(wave) for wave in waves], dtype=torch.float32)
    if hasattr(extractor, "n_samples"):
        window = float(extractor.n_samples)
    elif "input_values" in found and found["input_values"].ndim == 2:
        window = float(found["input_values"].shape[1])
    elif "attention_mask" in found:
        return found["attention_mask"].float().mean(dim=1)
    else:
        window = float(lengths.max())
    return (lengths / window).clamp(max=1.0)


def _told(processor: Any) -> dict[str, Any]:
    """Return the settings of a processor that metadata tells, as plain JSON."""
    given: dict[str, Any] = processor.to_dict()
    kept = {name: given[name] for name in _TOLD if given.get(name) is not None}
    return {
        "processor": type(processor).__name__,
        **{k: _json(v) for k, v in kept.items()},
    }


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
