"""Images and clips by name, out of folders and torch data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from saereg_plugin.errors import InputError, brief, suggest, suggest_path
from saereg_plugin.sources.fingerprint import sampled_hash
from saereg_plugin.sources.inputs.data import Clip, InputData, Split
from saereg_plugin.sources.inputs.embedded_sound import open_non_speech, open_speech
from saereg_plugin.sources.inputs.emoji import open_emoji
from saereg_plugin.sources.inputs.folders import open_folder
from saereg_plugin.sources.inputs.listed import ListedData, held_out, require_split
from saereg_plugin.sources.inputs.mnist import open_mnist

EMBEDDED: MappingProxyType[str, Callable[[str], ListedData]] = MappingProxyType(
    {
        "emoji": open_emoji,
        "mnist": open_mnist,
        "non-speech": open_non_speech,
        "speech": open_speech,
    }
)
"""Functions that open the data that ship inside registry packages, by name."""


def open_data(name_or_path: str, split: Split = "all") -> InputData:
    """
    Return images or clips, of one side.

    Args:
        name_or_path: embedded data (``EMBEDDED``), or a folder of images or audio files.
        split: ``train``, ``heldout`` or ``all``.

    Raises:
        InputError: for an unknown name or split, or data that cannot be fetched or read.
    """
    require_split(split)
    if name_or_path in EMBEDDED:
        return EMBEDDED[name_or_path](name_or_path).side(split)
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return open_folder(name_or_path, folder).side(split)
    hint = suggest_path(folder) or suggest(name_or_path, EMBEDDED)
    raise InputError(
        f"Unknown data {name_or_path!r}; expected embedded data "
        f"({', '.join(map(repr, EMBEDDED))}) or a folder of images or audio files. {hint}"
    )


class Items(Protocol):
    """What a torch Dataset of the map style has, and a list."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> Any: ...


def data_from_dataset(
    dataset: Items,
    *,
    name: str,
    split: Split = "all",
    labels: Sequence[int] | Tensor | None = None,
    class_names: Sequence[str] = (),
    heldout: Callable[[int], bool] | None = None,
) -> InputData:
    """
    Return the items of a torch Dataset as images or clips.

    An item is a PIL image, a tensor [channels, height, width] (uint8, or floats from 0 to 1),
    or a ``Clip``; of a tuple such as (image, label) it is the first.

    Args:
        dataset: anything with ``len`` and items by number.
        name: what metadata calls it.
        split: ``train``, ``heldout`` or ``all``.
        labels: class of each item; by default the data set's own ``targets``, if it has them.
        class_names: names of the classes; by default the data set's own ``classes``.
        heldout: tells by number whether an item is held out; by default a tenth is, by hash.

    Raises:
        InputError: for an empty data set, items of another kind, or labels of another length.
    """
    require_split(split)
    n = len(dataset)
    if n == 0:
        raise InputError(f"Data set {name!r} is empty; expected one or more items.")
    out = heldout or (lambda number: held_out(f"{name}/{number}"))
    given = getattr(dataset, "targets", None) if labels is None else labels

    def read(item: Any) -> Any:
        return _input(item, name)

    return ListedData(
        name=name,
        takes=_kind(dataset[0], name),
        read=lambda number: read(dataset[number]),
        titles=[f"{name}, number {number}" for number in range(n)],
        source={"items": n, "sha256": sampled_hash(dataset, read)},
        heldout=[out(number) for number in range(n)],
        labels=None if given is None else class_labels(given, n, name),
        class_names=class_names or tuple(getattr(dataset, "classes", ())),
    ).side(split)


def class_labels(given: Sequence[int] | Tensor, n: int, name: str) -> Tensor:
    """
    Return the class of each item of a data set, int64 (n,).

    Raises:
        InputError: for labels of another length.
    """
    labels = torch.as_tensor(given, dtype=torch.int64).flatten()
    if len(labels) != n:
        raise InputError(
            f"Data set {name!r} has {n} items and {len(labels)} labels; expected a label for "
            "each item. Give labels=... of that length."
        )
    return labels


def _kind(item: Any, name: str) -> Literal["images", "clips"]:
    return "clips" if isinstance(_input(item, name), Clip) else "images"


def _input(item: Any, name: str) -> Any:
    """Return a PIL image or a clip out of an item."""
    from PIL import Image

    first = item[0] if isinstance(item, tuple | list) and item else item
    if isinstance(first, Clip):
        return first
    if isinstance(first, Image.Image):
        return first.convert("RGB")
    if isinstance(first, Tensor) and first.ndim == 3 and first.shape[0] in (1, 3):
        whole = (first * 255).round() if first.is_floating_point() else first
        pixels = whole.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        return Image.fromarray(np.ascontiguousarray(pixels).squeeze()).convert("RGB")
    raise InputError(
        f"Data set {name!r} has the item {brief(item)}; expected a PIL image, a tensor "
        "[1 or 3, height, width], or a Clip, alone or first in a tuple. Wrap the data set."
    )
