"""The SHA-256 of a release's files: taken when they are saved, compared when they are read."""

from __future__ import annotations

from pathlib import Path

from saereg_plugin.errors import InputError
from saereg_plugin.files import sha256
from saereg_plugin.releases import read_release


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a saved SAE, by name."""
    return {
        path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()
    }


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
