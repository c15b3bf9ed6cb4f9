"""Configuration and sizes of a saved SAE, checked before SAELens reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from safetensors import SafetensorError, safe_open

from saereg_plugin.errors import InputError, brief
from saereg_plugin.files import read_json


def read_cfg(folder: Path) -> Mapping[str, Any]:
    """
    Read a configuration strictly.

    Raises:
        InputError: if it is no JSON object, or its metadata are none.
    """
    path = folder / SAE_CFG_FILENAME
    cfg = read_json(path, remedy="Restore it from a copy.")
    if not isinstance(cfg, Mapping) or not isinstance(cfg.get("metadata", {}), Mapping):
        raise InputError(
            f"{str(path)!r} is no configuration of an SAE; expected a JSON object with an object "
            "'metadata', as SAELens writes it. Restore it from a copy."
        )
    return cfg


def require_shapes(folder: Path) -> None:
    """
    Refuse sizes that are not those of the weights: SAELens would allocate them first.

    Raises:
        InputError: naming the file and both sizes.
    """
    cfg = read_cfg(folder)
    weights = folder / SAE_WEIGHTS_FILENAME
    try:
        with safe_open(weights, framework="pt") as opened:
            names = set(opened.keys())
            shapes = {
                name: tuple(opened.get_slice(name).get_shape())
                for name in names & {"W_enc", "W_dec"}
            }
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{str(weights)!r} cannot be read as safetensors ({error}). Restore it from a copy."
        ) from error
    size = (cfg.get("d_in"), cfg.get("d_sae"))
    for name, found in (
        ("W_enc", shapes.get("W_enc", size)),
        ("W_dec", shapes.get("W_dec", size[::-1])[::-1]),
    ):
        # the decoder of a transcoder writes to another space
        if found[1:] != size[1:] or (name == "W_enc" and found != size):
            raise InputError(
                f"{str(weights)!r} has {name} of (d_in, d_sae) {found}; expected {brief(size)}, as "
                f"{SAE_CFG_FILENAME} says. Restore both from a copy."
            )
