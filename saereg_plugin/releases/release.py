"""
A folder of trained SAEs as a release.

The folder holds ``release.yaml`` in the schema of SAELens' ``pretrained_saes.yaml``, with
for each SAE its group (configuration), its seed and the SHA-256 of its files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from saereg_plugin.errors import InputError, suggest
from saereg_plugin.files import write_text
from saereg_plugin.owned_folder import kind_of
from saereg_plugin.releases import manifest as manifests
from saereg_plugin.releases.manifest import MANIFEST
from saereg_plugin.yaml_text import dump_yaml, read_yaml

LOADER = "saereg_release"
KIND = "release"
"""Kind of a release folder in its mark."""


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
    manifest = manifests.sealed(
        release.name,
        {
            "conversion_func": LOADER,
            "model": release.model,
            "repo_id": release.name,
            "saes": saes,
            manifests.BLOCK: dict(release.provenance),
        },
    )
    path = release.folder / MANIFEST
    write_text(path, dump_yaml(manifest))
    return path


def read_release(folder: str | Path) -> Release:
    """
    Read the manifest of a release folder; files of its SAEs are not looked at.

    Raises:
        InputError: if the folder or its manifest is missing, or the manifest cannot be used
            (``saereg_plugin.releases.manifest``).
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        unfinished = kind_of(folder) == KIND
        remedy = (
            "Its training is not finished: run the same 'saereg-bench train' again."
            if unfinished
            else "Expected a folder written by 'saereg-bench train'."
        )
        raise InputError(
            f"{str(folder)!r} is no release folder: it has no {MANIFEST}. {remedy}"
        )
    name, block = manifests.checked(read_yaml(path), f"Manifest {str(path)!r}")
    entries = tuple(
        Entry(**{"sae_id" if key == "id" else key: item for key, item in sae.items()})
        for sae in block["saes"]
    )
    return Release(name, block["model"], entries, folder, block[manifests.BLOCK])
