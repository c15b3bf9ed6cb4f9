"""
Releases by name: a folder, SAELens' public table, or a hub repository.

Release folders enter SAELens' own tables of releases and of loaders, where
``SAE.from_pretrained`` and SAEBench find them; no function is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
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
from saereg_plugin.releases.hub import (
    SNAPSHOTS,
    Snapshot,
    cached_repository,
    find_snapshot,
    from_snapshot,
    split_name,
)
from saereg_plugin.releases.pickled import (
    CONFIG,
    DICTIONARY_LOADER,
    PICKLED_FORMATS,
    WEIGHTS,
    load_dictionary_learning,
    read_dictionary_learning_cfg,
    require_pickle_allowed,
)
from saereg_plugin.releases.release import (
    LOADER,
    MANIFEST,
    Entry,
    Release,
    read_release,
)
from saereg_plugin.releases.saelens_folder import read_folder
from saereg_plugin.sources.assets import require_hub_repo


def open_release(
    name: str | Path, *, group_by: str | None = None, allow_pickle: bool = False
) -> Release:
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
            SAELens' public table; or ``owner/repository[@revision]``, see
            ``register_release``.
        group_by: see ``group_saes``; it replaces a manifest's groups.
        allow_pickle: read formats that have no other form than pickle files, such as
            dictionary_learning's, with PyTorch's ``weights_only``.

    Raises:
        InputError: if nothing is found under that name, or a format is not allowed.
    """
    release = _open(str(name), allow_pickle=allow_pickle)
    return release if group_by is None else _regroup(release, group_by)


def _open(name: str, *, allow_pickle: bool) -> Release:
    directory = get_pretrained_saes_directory()
    known = directory.get(name)
    if Path(name).is_dir() or known is None or Path(known.repo_id) in SNAPSHOTS:
        return register_release(name, allow_pickle=allow_pickle)
    if known.conversion_func == LOADER:
        # a folder that was registered before
        return register_release(known.repo_id)
    if known.conversion_func in PICKLED_FORMATS:
        require_pickle_allowed(name, allowed=allow_pickle)
    require_reachable(known.repo_id)
    return Release(name, known.model, _entries(known.saes_map))


def _entries(paths: Mapping[str, str]) -> tuple[Entry, ...]:
    """Return SAEs by id and path, each a group of its own."""
    return tuple(Entry(sae_id, path, sae_id, None) for sae_id, path in paths.items())


def _regroup(release: Release, group_by: str) -> Release:
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
    if not cached_repository(repository).is_dir():
        require_hub_repo(
            repository,
            kind="model",
            advice="Give a release folder, or try again with a network.",
        )


def register_release(name: str | Path, *, allow_pickle: bool = False) -> Release:
    """
    Let SAELens load the SAEs of a release folder or of a hub repository.

    Afterwards ``SAE.from_pretrained(release, sae_id)`` takes the release's name, and the folder
    or repository as given. Of a repository, ``owner/name[@revision]``, one commit is
    registered, and its name is ``owner/name@commit``. The files of an SAE are downloaded
    when it is loaded, and their hashes are checked if the repository has our manifest.

    Args:
        name: a folder, or a hub repository.
        allow_pickle: see ``open_release``.

    Raises:
        InputError: if it holds no SAE or no readable manifest, if a folder's name is that of a
            public release, or if a repository cannot be reached.
    """
    name = str(name)
    snapshot = SNAPSHOTS.get(Path(name))
    if snapshot is not None:
        return _register_snapshot(snapshot, name, allow_pickle=allow_pickle)
    if Path(name).is_dir() or split_name(name) is None:
        return _register_folder(name)
    try:
        snapshot = find_snapshot(name)
    except InputError as error:
        nearest = suggest_path(name)
        if not nearest:
            raise
        raise InputError(
            f"There is no release folder {name!r}. {nearest} As a hub repository: {error}"
        ) from error
    return _register_snapshot(snapshot, name, allow_pickle=allow_pickle)


def _register_folder(folder: str) -> Release:
    if not Path(folder).exists():
        names = get_pretrained_saes_directory()
        raise InputError(
            f"No release {folder!r}: it is no folder, no hub repository (owner/name), and no "
            f"public release. {suggest_path(folder) or suggest(folder, names)}"
        )
    release = read_folder(folder)
    known = get_pretrained_saes_directory().get(release.name)
    if known is not None and known.conversion_func != LOADER:
        raise InputError(
            f"Release {release.name!r} in {folder!r} has the name of a public release; "
            f"rename it in {MANIFEST}, or its folder if there is none."
        )
    root = str(Path(folder).resolve())
    spellings = {release.name, folder, str(Path(folder).absolute()), root}
    _register(release, spellings, root, LOADER)
    return release


def _register_snapshot(
    snapshot: Snapshot, given: str, *, allow_pickle: bool
) -> Release:
    """Register one commit of a repository, by its manifest or else its list of files."""
    loader = LOADER
    if MANIFEST in snapshot.files:
        SNAPSHOTS[snapshot.folder] = snapshot
        snapshot.fetch([MANIFEST])
        with from_snapshot(snapshot.folder):
            release = replace(read_release(snapshot.folder), name=snapshot.name)
    else:
        loader, folders = _listed_saes(snapshot)
        # a snapshot that was opened before was allowed then
        if loader == DICTIONARY_LOADER and snapshot.folder not in SNAPSHOTS:
            require_pickle_allowed(given, allowed=allow_pickle)
        entries = _entries({folder: folder for folder in folders})
        release = Release(snapshot.name, "", entries, snapshot.folder)
    SNAPSHOTS[snapshot.folder] = snapshot
    folder = str(snapshot.folder)
    _register(release, {snapshot.name, given, folder}, folder, loader)
    return release


def _listed_saes(snapshot: Snapshot) -> tuple[str, list[str]]:
    """Return the loader for a repository without a manifest, and the folders of its SAEs."""
    for loader, weights, config in (
        (LOADER, SAE_WEIGHTS_FILENAME, SAE_CFG_FILENAME),
        (DICTIONARY_LOADER, WEIGHTS, CONFIG),
    ):
        folders = sae_folders(snapshot.files, weights, config)
        for folder in folders:
            source = f"The folder of an SAE in {snapshot.repository!r}"
            require_name(source, folder, slashes=True)
        if folders:
            return loader, folders
    raise InputError(
        f"Hub repository {snapshot.name!r} holds no SAE; expected folders with "
        f"{SAE_WEIGHTS_FILENAME} and {SAE_CFG_FILENAME} (SAELens), or {WEIGHTS} and {CONFIG} "
        "(dictionary_learning). Check the name."
    )


def _register(
    release: Release, spellings: Iterable[str], root: str, loader: str
) -> None:
    """Enter a release into SAELens' tables under each spelling of its name."""
    directory = get_pretrained_saes_directory()
    for spelling in spellings:
        directory[spelling] = PretrainedSAELookup(
            release=spelling,
            repo_id=root,
            model=release.model,
            conversion_func=loader,
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
    NAMED_PRETRAINED_SAE_LOADERS[DICTIONARY_LOADER] = load_dictionary_learning
    NAMED_PRETRAINED_SAE_CONFIG_GETTERS[DICTIONARY_LOADER] = (
        read_dictionary_learning_cfg
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


def require_files(release: Release, paths: Iterable[str]) -> None:
    """
    Require the files of SAEs: downloaded, with the hashes of the manifest, and readable.

    A release of SAELens' public table is left to SAELens.

    Raises:
        InputError: if a file is missing, differs, or cannot be fetched.
    """
    if release.folder is None:
        return
    known = get_pretrained_saes_directory().get(str(release.folder.absolute()))
    for path in paths:
        if known is not None and known.conversion_func == DICTIONARY_LOADER:
            load_dictionary_learning(known.repo_id, path)
        else:
            _fetch_checked(release.folder, path)


def _fetch_checked(root: Path, path: str, names: Iterable[str] | None = None) -> None:
    """Check the hashes of an SAE's files, which are downloaded first if they are of the hub."""
    _fetch(root, path, names or ())
    with from_snapshot(root):
        verify_files(root, path, names)


def _fetch(root: Path, path: str, names: Iterable[str]) -> None:
    """Download files of an SAE if its release is a snapshot; by default all that are read."""
    snapshot = SNAPSHOTS.get(root)
    if snapshot is None:
        return
    if MANIFEST in snapshot.files and not names:
        # a manifest may list further files
        names = [PurePosixPath(file).name for file in _files_of(snapshot, path)]
    wanted = names or (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME)
    present = set(_files_of(snapshot, path))
    snapshot.fetch(f"{path}/{name}" for name in wanted if f"{path}/{name}" in present)


def _files_of(snapshot: Snapshot, path: str) -> list[str]:
    return [file for file in snapshot.files if str(PurePosixPath(file).parent) == path]


def load_from_folder(
    repo_id: str,
    folder_name: str,
    device: str = "cpu",
    force_download: bool = False,  # noqa: ARG001
    cfg_overrides: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor | None]:
    """Load an SAE of a registered folder (SAELens' loader protocol), its hashes checked."""
    _fetch_checked(Path(repo_id), folder_name)
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
    _fetch_checked(Path(repo_id), folder_name, [SAE_CFG_FILENAME])
    folder = Path(repo_id) / folder_name
    read_cfg(folder)
    return get_sae_lens_config_from_disk(folder, device, cfg_overrides)
