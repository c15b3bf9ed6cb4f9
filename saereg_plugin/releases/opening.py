"""Releases by name: a folder, SAELens' public table, or a hub repository."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from saereg_plugin.errors import InputError, suggest
from saereg_plugin.releases.groups import group_saes
from saereg_plugin.releases.hub import hub_lookup, require_reachable
from saereg_plugin.releases.release import LOADER, MANIFEST, Entry, Release
from saereg_plugin.releases.sae_lens import register_release


def open_release(name: str, *, group_by: str | None = None) -> Release:
    """
    Return the release that ``name`` means: a folder, a public name, or a hub repository.

    Args:
        name: a release folder; a name of SAELens' public table; or ``owner/repository``.
        group_by: see ``saereg_plugin.releases.groups.group_saes``; for a folder it replaces the
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
        _require_repository(name)
        directory[name] = hub_lookup(name)
    lookup = directory[name]
    require_reachable(lookup.repo_id)
    entries = tuple(
        Entry(sae_id, path, sae_id, None) for sae_id, path in lookup.saes_map.items()
    )
    return _regroup(Release(name, lookup.model, entries), group_by)


def _require_repository(name: str) -> None:
    """
    Prove that the hub has a repository that no table lists.

    Raises:
        InputError: if not; names the release folder that was probably meant.
    """
    try:
        require_reachable(name)
    except InputError as error:
        parent = Path(name).parent
        folders = (
            [str(path.parent) for path in parent.glob(f"*/{MANIFEST}")]
            if parent.is_dir()
            else []
        )
        if not folders:
            raise
        raise InputError(
            f"There is no release folder {name!r}. {suggest(name, folders)} As a hub repository: {error}"
        ) from error


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
