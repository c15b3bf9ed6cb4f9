"""Titles, classes and thumbnails of the inputs that examples show."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from eval_recipes.examples.pile import Ints
from eval_recipes.examples.reader import INPUTS
from eval_recipes.results.subject import Subject
from eval_recipes.running.passes import Inputs
from saereg_plugin.activations.source import ActivationSource, InputSource
from saereg_plugin.sources.inputs import Clip

MOST_PIXELS = 128
"""Of a thumbnail's longer side."""
_FEW_PIXELS = 64
"""Up to which nothing of an image is lost (PNG); JPEG beyond."""


def kind_of_inputs(source: ActivationSource) -> str:
    """Return "images", "clips", or "inputs" where a source does not keep what it read."""
    # only a module has its inputs at hand
    read = getattr(source, "input", None)
    item = None if read is None else read(0)
    if isinstance(item, Image.Image) or _is_picture(item):
        return "images"
    return "clips" if isinstance(item, Clip) else "inputs"


def _is_picture(item: Any) -> bool:
    """Return whether an input is a tensor [1 or 3 channels, height, width]."""
    return isinstance(item, Tensor) and item.ndim == 3 and item.shape[0] in (1, 3)


def inputs_table(
    inputs: Inputs,
    places: Ints,
    *,
    point: str,
    picture: Callable[[int], bytes],
    subject: Subject,
) -> Any:
    """
    Return the ``pyarrow.Table`` of the inputs that an SAE's examples show.

    Args:
        inputs: that the SAE saw.
        places: of those shown among them, each once.
        point: of the SAE.
        picture: makes the thumbnail of an input of a number.
        subject: the SAE.
    """
    source, kind = inputs.source, kind_of_inputs(inputs.source)
    numbers = inputs.numbers[torch.from_numpy(places)].tolist()
    labels = _labels(source)
    columns = {
        "input": pa.array(numbers, pa.int64()),
        "title": pa.array([_title(source, n) for n in numbers], pa.string()),
        "label": pa.array([labels(n) for n in numbers], pa.string()),
        "rows": pa.array(inputs.lengths.numpy()[places]),
        "seconds": pa.array(_seconds(source, kind, numbers, point), pa.float64()),
        "picture": pa.array(
            [picture(n) if kind == "images" else None for n in numbers], pa.binary()
        ),
    }
    return INPUTS.of(columns, subject, kind=kind)


def _title(source: ActivationSource, number: int) -> str:
    return (
        source.title(number) if isinstance(source, InputSource) else f"input {number}"
    )


def _labels(source: ActivationSource) -> Callable[[int], str | None]:
    """Return a function from the number of an input to the name of its class."""
    labels = source.labels if isinstance(source, InputSource) else None
    if not isinstance(source, InputSource) or labels is None:
        return lambda _: None
    names = source.class_names

    def name(number: int) -> str:
        label = int(labels[number])
        return names[label] if 0 <= label < len(names) else str(label)

    return name


def _seconds(
    source: Any, kind: str, numbers: list[int], point: str
) -> list[float | None]:
    """Return the length of each clip, as far as the model's window goes."""
    if kind != "clips":
        return [None] * len(numbers)
    most = float(preprocessing_of(source, point).get("chunk_length") or math.inf)
    return [min(source.input(number).seconds, most) for number in numbers]


def preprocessing_of(source: ActivationSource, point: str) -> Mapping[str, Any]:
    """Return the settings of a source's preprocessing; empty if they are unknown."""
    recorded = source.metadata(point).get("activation_source") or {}
    return recorded.get("preprocessing") or {}


def thumbnail(source: Any, point: str, number: int) -> bytes:
    """Return the PNG or JPEG of an image as the module sees it, or else of the whole image."""
    seen, item = source.seen(number), source.input(number)
    if seen is not None:
        picture = to_picture(seen, preprocessing_of(source, point))
    elif isinstance(item, Tensor):
        picture = to_picture(item, {})
    else:
        picture = item.convert("RGB")
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    if max(picture.size) <= _FEW_PIXELS:
        picture.save(content, "PNG", optimize=True)
    else:
        picture.save(content, "JPEG", quality=85)
    return content.getvalue()


def to_picture(values: Tensor, preprocessing: Mapping[str, Any]) -> Image.Image:
    """
    Return an image [channels, height, width] with its preprocessing undone.

    Without a known normalisation its values are spread from black to white.
    """
    values = values.float().cpu()
    mean, std = _normalisation(preprocessing)
    if mean is not None and len(mean) in (1, len(values)):
        # of white; where pixels are not rescaled, it is 255
        scale = float(preprocessing.get("scale", 1.0))
        values = (values * _column(std) + _column(mean)) / scale
    else:
        low, high = values.amin(), values.amax()
        values = (values - low) / (high - low).clamp(min=1e-12)
    if preprocessing.get("channels") == "BGR":
        values = values.flip(0)
    pixels = (values.clamp(0, 1) * 255).round().to(torch.uint8)
    if len(pixels) != 3:
        pixels = pixels[:1].expand(3, -1, -1)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _normalisation(preprocessing: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return mean and standard deviation of the channels; a mean of None is unknown."""
    if preprocessing.get("do_normalize") is False:
        return [0.0], [1.0]
    mean, std = (
        preprocessing.get(f"image_{name}", preprocessing.get(name))
        for name in ("mean", "std")
    )
    return mean, [1.0] if std is None else std


def _column(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None, None]
