"""
Release folders in SAELens' own tables.

An entry in the table of releases and one in the table of loaders let
``SAE.from_pretrained`` and SAEBench find a release; no function is replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sae_lens.constants import SAE_CFG_FILENAME, SPARSITY_FILENAME
from sae_lens.loading.pretrained_sae_loaders import (
    NAMED_PRETRAINED_SAE_CONFIG_GETTERS,
    NAMED_PRETRAINED_SAE_LOADERS,
    get_sae_lens_config_from_disk,
    sae_lens_disk_loader,
)
from sae_lens.loading.pretrained_saes_directory import (
    PretrainedSAELookup,
    get_pretrained_saes_directory,
)
from safetensors.torch import load_file

from saereg_plugin.errors import InputError
from saereg_plugin.releases.hashes import read_cfg, verify_files
from saereg_plugin.releases.release import LOADER, MANIFEST, Release, read_release


def register_release(folder: str | Path) -> Release:
    """
    Let SAELens load the SAEs of a release folder.

    Afterwards ``SAE.from_pretrained(release, sae_id)`` takes the release's name, the folder
    as given, or its absolute path.

    Raises:
        InputError: if the folder has no readable manifest, or its name is that of a
            public release.
    """
    release = read_release(folder)
    directory = get_pretrained_saes_directory()
    known = directory.get(release.name)
    if known is not None and known.conversion_func != LOADER:
        raise InputError(
            f"Release {release.name!r} in {str(folder)!r} has the name of a public release; "
            f"rename it in {MANIFEST}."
        )
    root = str(Path(folder).resolve())
    for spelling in {release.name, str(folder), str(Path(folder).absolute()), root}:
        directory[spelling] = PretrainedSAELookup(
            release=spelling,
            repo_id=root,
            model=release.model,
            conversion_func=LOADER,
            saes_map={entry.sae_id: entry.path for entry in release.entries},
            expected_var_explained={
                entry.sae_id: entry.variance_explained or 1.0
                for entry in release.entries
            },
            expected_l0={entry.sae_id: entry.l0 or 0.0 for entry in release.entries},
            neuronpedia_id={},
            norm_scaling_factor={},
            config_overrides=None,
        )
    NAMED_PRETRAINED_SAE_LOADERS[LOADER] = load_from_folder
    NAMED_PRETRAINED_SAE_CONFIG_GETTERS[LOADER] = read_cfg_from_folder
    return release


def load_from_folder(
    repo_id: str,
    folder_name: str,
    device: str = "cpu",
    force_download: bool = False,  # noqa: ARG001
    cfg_overrides: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor | None]:
    """Load an SAE of a registered folder (SAELens' loader protocol), its hashes checked."""
    verify_files(Path(repo_id), folder_name)
    folder = Path(repo_id) / folder_name
    cfg_dict, state_dict = sae_lens_disk_loader(folder, device, cfg_overrides)
    sparsity = folder / SPARSITY_FILENAME
    log_sparsity = load_file(sparsity)["sparsity"] if sparsity.is_file() else None
    return cfg_dict, state_dict, log_sparsity


def read_cfg_from_folder(
    repo_id: str,
    folder_name: str,
    device: str | None = None,
    force_download: bool = False,  # noqa: ARG001
    cfg_overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Read an SAE's configuration (SAELens' configuration-getter protocol), its hash checked."""
    verify_files(Path(repo_id), folder_name, [SAE_CFG_FILENAME])
    folder = Path(repo_id) / folder_name
    read_cfg(folder)
    return get_sae_lens_config_from_disk(folder, device, cfg_overrides)
