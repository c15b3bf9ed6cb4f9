"""Modules by name: embedded, a folder, the hub, or timm."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache

from saereg_plugin.errors import InputError, suggest, suggest_path
from saereg_plugin.files import folder_identity
from saereg_plugin.machine import torch_dtype
from saereg_plugin.sources.assets import (
    Asset,
    cache_dir,
    ensure_folder,
    hub_identity,
    require_hub_repo,
)
from saereg_plugin.sources.modules import dinov2, squeezenet, timm_models, whisper
from saereg_plugin.sources.modules.huggingface import open_transformers
from saereg_plugin.sources.modules.loaded import LoadedModule

_CONVERSION = 1
"""Raised whenever a converted folder changes, so that old folders are built again."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """
    A model whose weights ship inside a registry package.

    Attributes:
        asset: the archive.
        convert: writes the model to a new folder.
        open: opens that folder, or without it builds the model on torch's meta device.
    """

    asset: Asset
    convert: Callable[[Path], None]
    open: Callable[..., LoadedModule]


def _of_transformers(
    write_config: Callable[[Path], None],
) -> Callable[..., LoadedModule]:
    """Return what opens a converted folder of transformers."""

    def opened(
        name: str, folder: Path | None, *, image_size: int | None
    ) -> LoadedModule:
        if folder is not None:
            return open_transformers(name, folder, image_size=image_size, weights=True)
        with tempfile.TemporaryDirectory() as scratch:
            write_config(Path(scratch))
            return open_transformers(
                name, Path(scratch), image_size=image_size, weights=False
            )

    return opened


EMBEDDED = MappingProxyType(
    {
        "dinov2-small": Embedded(
            asset=dinov2.ASSET,
            convert=dinov2.convert,
            open=_of_transformers(dinov2.write_config),
        ),
        "efficientnet-lite0": Embedded(
            asset=timm_models.ASSET,
            convert=timm_models.convert_efficientnet,
            open=timm_models.open_efficientnet,
        ),
        "squeezenet": Embedded(
            asset=squeezenet.ASSET,
            convert=squeezenet.convert,
            open=squeezenet.open_squeezenet,
        ),
        "whisper-tiny.en": Embedded(
            asset=whisper.ASSET,
            convert=whisper.convert,
            open=_of_transformers(whisper.write_config),
        ),
    }
)
"""Models whose weights ship inside registry packages, by name."""


def load_module(
    name: str,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    image_size: int | None = None,
) -> LoadedModule:
    """
    Return a module by name, in evaluation mode, without gradients of its weights.

    Args:
        name: an embedded model (``EMBEDDED``), a folder of transformers, a hub repository, or
            ``timm:`` and a name of timm.
        dtype: data type of the weights.
        device: where the module is.
        image_size: side of the images in pixels; None for the model's own.

    Raises:
        InputError: if the name is unknown, the model cannot be fetched or read, takes neither
            images nor sound, or needs an extra that is not installed.
    """
    numbers = torch_dtype(dtype)
    found = _open(name, image_size, weights=True)
    found.module.to(device=device, dtype=numbers).requires_grad_(False)
    return found


def module_facts(name: str, *, image_size: int | None = None) -> LoadedModule:
    """
    Return a module by name on torch's meta device, where it has shapes and no weights.

    No weights are fetched or read; of a hub repository its configuration is fetched.

    Raises:
        InputError: as ``load_module``.
    """
    return _open(name, image_size, weights=False)


def embedded_module_folder(name: str) -> Path:
    """
    Return the folder of an embedded model, fetched and converted if needed.

    ``from_pretrained`` of transformers opens those of dinov2-small and whisper-tiny.en.

    Raises:
        InputError: if its archive cannot be fetched.
    """
    folder = cache_dir() / "modules" / name
    return ensure_folder(folder, module_identity(name), EMBEDDED[name].convert)


def module_identity(name: str) -> Any:
    """
    Return plain JSON that changes with the weights of a module; loads nothing.

    For an embedded model that is the hash of its archive. For a local folder it is names,
    sizes and times of files; for a cached hub model its commit; otherwise the name.
    """
    name = os.path.expanduser(name)
    if name in EMBEDDED:
        asset = EMBEDDED[name].asset
        return {
            "archive": asset.sha256,
            "member": asset.member,
            "conversion": _CONVERSION,
        }
    if name.startswith(timm_models.PREFIX):
        return timm_models.timm_identity(name)
    if Path(name).is_dir():
        return folder_identity(Path(name))
    return hub_identity(name)


def _open(name: str, image_size: int | None, *, weights: bool) -> LoadedModule:
    name = os.path.expanduser(name)
    if name in EMBEDDED:
        # the archive is not fetched for a size that does not suit the model
        facts = EMBEDDED[name].open(name, None, image_size=image_size)
        if not weights:
            return facts
        folder = embedded_module_folder(name)
        return EMBEDDED[name].open(name, folder, image_size=image_size)
    if name.startswith(timm_models.PREFIX):
        return timm_models.open_timm(name, image_size=image_size, weights=weights)
    _require_place(name)
    return open_transformers(name, name, image_size=image_size, weights=weights)


def _require_place(name: str) -> None:
    """Refuse what is neither a folder of transformers nor a repository of the hub."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(
                f"Folder {name!r} has no config.json; expected a model folder of transformers "
                "(as `save_pretrained` writes it)."
            )
        return
    known = ", ".join(map(repr, EMBEDDED))
    if name.startswith((".", "/", "~")):
        raise InputError(
            f"Model folder {name!r} does not exist; expected a model folder of transformers. "
            f"{suggest_path(name)}".rstrip()
        )
    if "/" not in name:
        raise InputError(
            f"Unknown model {name!r}; expected an embedded model ({known}), a local folder, a "
            f"hub repository <owner>/<name>, or 'timm:<name>'. {suggest(name, EMBEDDED)}"
        )
    if not isinstance(try_to_load_from_cache(name, "config.json"), str):
        require_hub_repo(
            name,
            kind="model",
            advice=f"{next(iter(EMBEDDED))!r} works offline, as does the path of a local folder.",
        )
