"""
A folder of trained SAEs as a SAELens release.

The folder holds ``release.yaml`` in the schema of SAELens' ``pretrained_saes.yaml``, with
for each SAE its group (configuration), its seed and the SHA-256 of its files. Registering
adds an entry to SAELens' own table of releases and a loader to its table of loaders, so
that ``SAE.from_pretrained`` and SAEBench find it; no function is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import yaml
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

from saereg_plugin.assets import require_hub_repo
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.files import sha256, write_text
from saereg_plugin.groups import group_saes

MANIFEST = "release.yaml"
LOADER = "saereg_release"


@dataclass(frozen=True)
class Entry:
    """One SAE of a release; ``path`` is relative to the release's folder."""

    sae_id: str
    path: str
    group: str
    seed: int | None
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by file name."""
    l0: float | None = None
    variance_explained: float | None = None


@dataclass(frozen=True)
class Release:
    """A release: ``name`` is what ``SAE.from_pretrained`` takes."""

    name: str
    model: str
    entries: tuple[Entry, ...]
    folder: Path | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def select(self, patterns: Iterable[str]) -> tuple[Entry, ...]:
        """
        Return the SAEs whose id matches any of the shell patterns; all without patterns.

        Raises:
            InputError: if a pattern matches nothing; names the nearest id.
        """
        chosen = {pattern: self._matching(pattern) for pattern in patterns}
        if not chosen:
            return self.entries
        ids = [entry.sae_id for entry in self.entries]
        for pattern, found in chosen.items():
            if not found:
                raise InputError(
                    f"No SAE {pattern!r} in release {self.name!r}. {suggest(pattern, ids)}"
                )
        wanted = {entry.sae_id for found in chosen.values() for entry in found}
        return tuple(entry for entry in self.entries if entry.sae_id in wanted)

    def _matching(self, pattern: str) -> list[Entry]:
        return [
            entry
            for entry in self.entries
            if entry.sae_id == pattern or fnmatchcase(entry.sae_id, pattern)
        ]


def write_release(release: Release) -> Path:
    """Write the manifest of ``release`` into its folder, atomically."""
    assert release.folder is not None
    saes = [
        {
            "id": entry.sae_id,
            **{key: value for key, value in asdict(entry).items() if key != "sae_id"},
        }
        for entry in release.entries
    ]
    manifest = {
        release.name: {
            "conversion_func": LOADER,
            "model": release.model,
            "repo_id": release.name,
            "saes": saes,
            "saereg": dict(release.provenance),
        }
    }
    path = release.folder / MANIFEST
    write_text(path, yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True))
    return path


def read_release(folder: str | Path) -> Release:
    """
    Read the manifest of a release folder.

    Raises:
        InputError: if the folder or its manifest is missing or cannot be read.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{str(folder)!r} is no release folder: it has no {MANIFEST}. "
            "Expected a folder written by 'saereg-bench train'."
        )
    try:
        manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
        ((name, value),) = manifest.items()
        entries = tuple(
            Entry(
                **{"sae_id" if key == "id" else key: item for key, item in sae.items()}
            )
            for sae in value["saes"]
        )
        return Release(name, value["model"], entries, folder, value.get("saereg", {}))
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"Manifest {str(path)!r} cannot be read ({error}).") from error


def register_release(folder: str | Path) -> Release:
    """
    Let SAELens load the SAEs of a release folder.

    Afterwards ``SAE.from_pretrained(release, sae_id)`` works with the release's name, the
    folder as given, or its absolute path.

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


def open_release(name: str, *, group_by: str | None = None) -> Release:
    """
    Return the release that ``name`` means: a folder, a public name, or a hub repository.

    Args:
        name: a release folder; a name of SAELens' public table; or ``owner/repository``.
        group_by: see ``saereg_plugin.groups.group_saes``; for a folder it replaces the
            manifest's groups.

    Raises:
        InputError: if nothing is found under that name.
    """
    if Path(name).is_dir():
        release = register_release(name)
        if group_by is None:
            return release
        return _regroup(release, group_by)
    directory = get_pretrained_saes_directory()
    if name in directory and directory[name].conversion_func == LOADER:
        # the name of a folder that was registered before
        return open_release(directory[name].repo_id, group_by=group_by)
    if name not in directory:
        if name.count("/") != 1 or name.startswith((".", "/")):
            raise InputError(
                f"No release {name!r}: it is no folder, no hub repository (owner/name), and no "
                f"public release. {suggest(name, directory)}"
            )
        require_reachable(name)
        directory[name] = _hub_lookup(name)
    lookup = directory[name]
    require_reachable(lookup.repo_id)
    entries = tuple(
        Entry(sae_id, path, sae_id, None) for sae_id, path in lookup.saes_map.items()
    )
    return _regroup(Release(name, lookup.model, entries), group_by)


def require_reachable(repository: str) -> None:
    """
    Prove within seconds that a hub repository can be read, from the cache or the hub.

    Raises:
        InputError: if it can be read from neither.
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


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a saved SAE, by name."""
    return {
        path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()
    }


def load_from_folder(
    repo_id: str,
    folder_name: str,
    device: str = "cpu",
    force_download: bool = False,  # noqa: ARG001
    cfg_overrides: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor | None]:
    """Load an SAE of a registered folder (SAELens' loader protocol), its hashes checked."""
    folder = Path(repo_id) / folder_name
    verify_files(Path(repo_id), folder_name)
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
    """Read an SAE's configuration (SAELens' configuration-getter protocol)."""
    return get_sae_lens_config_from_disk(
        Path(repo_id) / folder_name, device, cfg_overrides
    )


def verify_files(root: Path, folder_name: str) -> None:
    """
    Compare an SAE's files with the manifest.

    Raises:
        InputError: naming the file that is missing or differs.
    """
    for entry in read_release(root).entries:
        if entry.path != folder_name:
            continue
        for file_name, expected in entry.files.items():
            path = root / folder_name / file_name
            if not path.is_file():
                raise InputError(
                    f"{str(path)!r} is missing; expected it for SAE {entry.sae_id!r}."
                )
            found = sha256(path)
            if found != expected:
                raise InputError(
                    f"{str(path)!r} is damaged: its SHA-256 is {found[:12]}..., the manifest says "
                    f"{expected[:12]}.... Restore the file or train SAE {entry.sae_id!r} again."
                )


def _regroup(release: Release, group_by: str | None) -> Release:
    members = group_saes([entry.sae_id for entry in release.entries], group_by)
    entries = tuple(
        replace(entry, group=members[entry.sae_id][0], seed=members[entry.sae_id][1])
        for entry in release.entries
        if entry.sae_id in members
    )
    return Release(
        release.name, release.model, entries, release.folder, release.provenance
    )


def _hub_lookup(repository: str) -> PretrainedSAELookup:
    """Describe a hub repository that is in no table, from its list of files."""
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
    """Return the folders among ``files`` that hold both a weights and a config file."""
    present = set(files)
    return sorted(
        file.removesuffix(f"/{weights}")
        for file in present
        if file.endswith(f"/{weights}")
        and f"{file.removesuffix(weights)}{config}" in present
    )
