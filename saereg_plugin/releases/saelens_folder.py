"""A folder of SAEs as SAELens saves them, without a manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME

from saereg_plugin.checks import require_name
from saereg_plugin.errors import InputError
from saereg_plugin.owned_folder import MARK, kind_of
from saereg_plugin.releases.hashes import read_cfg
from saereg_plugin.releases.release import (
    KIND,
    MANIFEST,
    Entry,
    Release,
    read_release,
)

_DEPTH = 4
"""SAEs are looked for in the folder and down to so many levels below it."""


def read_folder(folder: str | Path) -> Release:
    """
    Return the release in a folder: by its manifest, else of the SAEs that are found in it.

    Found are folders with ``cfg.json`` and ``sae_weights.safetensors``, as SAELens' runners
    and ``save_model`` write them. Their ids are their paths; each is a group of its own,
    without a seed and without hashes.

    Raises:
        InputError: if there is no SAE, if the manifest cannot be used, or if a training into
            the folder is not finished.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file() or kind_of(folder) == KIND:
        return read_release(folder)
    paths = sorted(_paths(folder))
    if not paths:
        raise InputError(
            f"{str(folder)!r} is no release folder: it has no {MANIFEST}, and in it and {_DEPTH} "
            f"levels below is no folder with {SAE_CFG_FILENAME} and {SAE_WEIGHTS_FILENAME}. Expected "
            "a folder written by 'saereg-bench train', or one with SAEs that SAELens saved."
        )
    name = require_name("The name of the folder", folder.resolve().name)
    ids = [name if path == "." else path for path in paths]
    if len(set(ids)) < len(ids):
        raise InputError(
            f"{str(folder)!r} is an SAE itself and holds another one called {name!r}; expected one "
            "SAE of each name. Move one of them."
        )
    for sae_id in ids:
        require_name(f"The folder of an SAE in {str(folder)!r}", sae_id, slashes=True)
    entries = [Entry(i, path, i, None) for i, path in zip(ids, paths, strict=True)]
    return Release(name, _model(folder / paths[0]), tuple(entries), folder)


def _paths(root: Path) -> Iterator[str]:
    """Yield the paths of the SAEs in a folder, relative to it; "." is the folder itself."""
    for name, folders, files in os.walk(root, followlinks=True):
        folder = Path(name)
        path = folder.relative_to(root)
        if len(path.parts) >= _DEPTH:
            folders.clear()
        if folder != root and (MANIFEST in files or MARK in files):
            raise InputError(
                f"{str(root)!r} is no release folder, but holds one: {str(folder)!r}. Give that one; "
                "the SAEs of several are evaluated one release at a time."
            )
        if {SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME} <= set(files):
            yield path.as_posix()


def _model(folder: Path) -> str:
    """Return the name of the language model that an SAE's metadata give, or nothing."""
    cfg = read_cfg(folder)
    metadata: Any = cfg.get("metadata", {})
    # SAELens had these fields outside of the metadata once
    return str(metadata.get("model_name") or cfg.get("model_name") or "")
