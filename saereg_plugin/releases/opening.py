"""
Releases by name: a folder, SAELens' public table, or a hub repository.

Release folders enter SAELens' own tables of releases and of loaders, where
``SAE.from_pretrained`` and SAEBench find them; no function is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import repo_folder_name
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME
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

from saereg_plugin.checks import require_name
from saereg_plugin.errors import InputError, suggest, suggest_path
from saereg_plugin.releases.groups import group_saes
from saereg_plugin.releases.hashes import read_cfg, verify_files
from saereg_plugin.releases.release import (
    LOADER,
    MANIFEST,
    Entry,
    Release,
)
from saereg_plugin.releases.saelens_folder import read_folder
from saereg_plugin.sources.assets import require_hub_repo


def open_release(name: str | Path, *, group_by: str | None = None) -> Release:
    """
    Return a release by its name; afterwards SAELens can load its SAEs.

    Example::

        import saereg_plugin as sr

        release = sr.open_release("my-release")
        release.ids  # ["plain-seed0", "l2-seed0", ...]
        release.groups  # {"plain": ["plain-seed0", ...], "l2": [...]}
        sae = release.load("l2-seed0")

    Args:
        name: a release folder, or any folder with SAEs that SAELens saved; a name of
            SAELens' public table; or ``owner/repository``.
        group_by: see ``group_saes``; it replaces a manifest's groups.

    Raises:
        InputError: if nothing is found under that name.
    """
    name = str(name)
    if Path(name).is_dir():
        release = register_release(name)
        if group_by is None:
            return release
        return _regroup(release, group_by)
    directory = get_pretrained_saes_directory()
    if name in directory and directory[name].conversion_func == LOADER:
        # a folder that was registered before
        return open_release(directory[name].repo_id, group_by=group_by)
    if name not in directory:
        if name.count("/") != 1 or name.startswith((".", "/")):
            raise InputError(
                f"No release {name!r}: it is no folder, no hub repository (owner/name), and no "
                f"public release. {suggest_path(name) or suggest(name, directory)}"
            )
        _require_repository(name)
        directory[name] = hub_lookup(name)
    lookup = directory[name]
    require_reachable(lookup.repo_id)
    entries = tuple(
        Entry(sae_id, path, sae_id, None) for sae_id, path in lookup.saes_map.items()
    )
    return _regroup(Release(name, lookup.model, entries), group_by)


def _require_repository(name: str) -> None:
    """Require a repository on the hub; the error names the nearest folder."""
    try:
        require_reachable(name)
    except InputError as error:
        nearest = suggest_path(name)
        if not nearest:
            raise
        raise InputError(
            f"There is no release folder {name!r}. {nearest} As a hub repository: {error}"
        ) from error


def _regroup(release: Release, group_by: str | None) -> Release:
    members = group_saes([entry.sae_id for entry in release.entries], group_by)
    entries = tuple(
        replace(entry, group=members[entry.sae_id][0], seed=members[entry.sae_id][1])
        for entry in release.entries
        if entry.sae_id in members
    )
    return replace(release, entries=entries)


def require_reachable(repository: str) -> None:
    """
    Require that the cache or the hub has a repository, within seconds.

    Raises:
        InputError: if neither has it.
    """
    cached = Path(HF_HUB_CACHE) / repo_folder_name(
        repo_id=repository, repo_type="model"
    )
    if not cached.is_dir():
        require_hub_repo(
            repository,
            kind="model",
            advice="Give a release folder, or try again with a network.",
        )


def hub_lookup(repository: str) -> PretrainedSAELookup:
    """Return SAELens' entry for a hub repository, made from its list of files."""
    try:
        files = HfApi().list_repo_files(repository)
    except (HfHubHTTPError, OSError) as error:
        raise InputError(
            f"Release {repository!r} is no local folder and no public release, and as a hub "
            f"repository it cannot be listed ({type(error).__name__}). Check the name and the network."
        ) from error
    for loader, weights, config in (
        ("sae_lens", SAE_WEIGHTS_FILENAME, SAE_CFG_FILENAME),
        ("dictionary_learning_1", "ae.pt", "config.json"),
    ):
        folders = sae_folders(files, weights, config)
        for folder in folders:
            require_name(
                f"The folder of an SAE in {repository!r}", folder, slashes=True
            )
        if folders:
            return PretrainedSAELookup(
                release=repository,
                repo_id=repository,
                model="",
                conversion_func=loader,
                saes_map={folder: folder for folder in folders},
                expected_var_explained={},
                expected_l0={},
                neuronpedia_id={},
                norm_scaling_factor={},
                config_overrides=None,
            )
    raise InputError(
        f"Hub repository {repository!r} holds no SAE; expected folders with {SAE_WEIGHTS_FILENAME} "
        f"and {SAE_CFG_FILENAME} (SAELens), or ae.pt and config.json (dictionary_learning)."
    )


def sae_folders(files: Iterable[str], weights: str, config: str) -> list[str]:
    """Return the folders that hold both a weights and a config file."""
    present = set(files)
    return sorted(
        file.removesuffix(f"/{weights}")
        for file in present
        if file.endswith(f"/{weights}")
        and f"{file.removesuffix(weights)}{config}" in present
    )


def register_release(folder: str | Path) -> Release:
    """
    Let SAELens load the SAEs of a release folder.

    Afterwards ``SAE.from_pretrained(release, sae_id)`` takes the release's name, the folder
    as given, or its absolute path.

    Raises:
        InputError: if the folder holds no SAE or no readable manifest, or its name is that of a
            public release.
    """
    release = read_folder(folder)
    directory = get_pretrained_saes_directory()
    known = directory.get(release.name)
    if known is not None and known.conversion_func != LOADER:
        raise InputError(
            f"Release {release.name!r} in {str(folder)!r} has the name of a public release; "
            f"rename it in {MANIFEST}, or its folder if there is none."
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
