"""A loaded module and the preparation of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn


@dataclass(frozen=True)
class Prepared:
    """
    Inputs of one pass, ready for the module.

    Attributes:
        kwargs: keyword arguments of ``forward``, on the module's device, floats in its data
            type.
        share: float (n,); the part of each clip's window that is sound, the rest being
            padding. None for images.
    """

    kwargs: dict[str, Tensor]
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
    """

    name: str
    module: nn.Module
    takes: Literal["images", "clips"]
    prepare: Callable[[Sequence[Any]], Prepared]
    prefix_tokens: int
    has_class_token: bool
    preprocessing: dict[str, Any]
