"""A loaded module and the preparation of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saereg_plugin.errors import InputError


@dataclass(frozen=True)
class Prepared:
    """
    Inputs of one pass, ready for the module.

    Attributes:
        kwargs: keyword arguments of ``forward``; tensors are on the module's device, floats
            in its data type.
        share: float (n,); the part of each clip's window that is sound, the rest being
            padding. None for images.
    """

    kwargs: dict[str, Any]
    share: Tensor | None


@dataclass(frozen=True)
class LoadedModule:
    """
    A module in evaluation mode, and what is known of it.

    Attributes:
        name: the name it was loaded by.
        module: the module. ``module_facts`` leaves it on torch's meta device.
        takes: what ``prepare`` is given: PIL images, or ``Clip``.
        prepare: turns a list of images or clips into arguments of ``forward``.
        prefix_tokens: class and register tokens before the patches; 0 for CNNs and audio.
        has_class_token: whether the first of these tokens stands for the whole image.
        preprocessing: plain JSON for metadata: size, crop, mean, std, sampling rate.
        channels_last: whether maps are [n, height, width, channels].
    """

    name: str
    module: nn.Module
    takes: Literal["images", "clips"]
    prepare: Callable[[Sequence[Any]], Prepared]
    prefix_tokens: int
    has_class_token: bool
    preprocessing: dict[str, Any]
    channels_last: bool = False


def on_module(values: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """Return arguments with tensors on a module's device, floats in its data type."""
    return {name: moved(value, module) for name, value in values.items()}


def moved(value: Any, module: nn.Module) -> Any:
    """Return a tensor on a module's device, floats in its data type; others as they are."""
    if not isinstance(value, Tensor):
        return value
    like = next(module.parameters(), torch.empty(0))
    dtype = like.dtype if value.is_floating_point() else value.dtype
    return value.to(device=like.device, dtype=dtype)


def require_size(image_size: int | None, patch: int, name: str) -> None:
    """
    Refuse a side of images that no model can read, or that ends within a patch.

    Args:
        image_size: pixels; None stands for the model's own size.
        patch: side of a patch in pixels; 1 for a model without patches.
        name: of the model, for the message.
    """
    if image_size is not None and (image_size < 1 or image_size % patch):
        raise InputError(
            f"image_size={image_size} does not suit the model {name!r}; expected a positive "
            f"multiple of {patch} pixels. Choose {max(1, round(image_size / patch)) * patch}."
        )


def stack(images: Sequence[Any], transform: Callable[[Any], Tensor]) -> Tensor:
    """Return transformed images as one tensor [n, channels, height, width]."""
    return torch.stack([transform(image) for image in images])
