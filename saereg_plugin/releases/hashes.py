"""SHA-256 hashes of a release's files, compared before SAEs are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME
from safetensors import SafetensorError, safe_open

from saereg_plugin.errors import InputError, brief
from saereg_plugin.files import read_json, sha256
from saereg_plugin.owned_folder import kind_of
from saereg_plugin.releases.release import KIND, MANIFEST, Entry, read_release

REQUIRED = (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME)
OPTIONAL = (SPARSITY_FILENAME,)


def verify_files(
    root: Path, folder_name: str, names: Iterable[str] | None = None
) -> None:
    """
    Compare an SAE's files with the manifest; without a manifest only with one another.

    Args:
        root: the release's folder.
        folder_name: the SAE's path in it.
        names: the files to compare; by default all, and the sizes of the weights.

    Raises:
        InputError: if a file is missing, differs or has no hash, or if the SAE's folder
            lies outside the release.
    """
    if not (root / MANIFEST).is_file():
        if kind_of(root) == KIND:
            # a release that lost its manifest: the error says so
            read_release(root)
        if names is None:
            require_shapes(root / folder_name)
        return
    entry = _entry(root, folder_name)
    source = f"SAE {entry.sae_id!r}"
    folder = root / folder_name
    if not folder.resolve().is_relative_to(root.resolve()):
        raise InputError(
            f"Folder {str(folder)!r} of {source} is a link that leads out of the release; expected "
            "a folder inside it. Copy the files there."
        )
    for name in (*REQUIRED, *OPTIONAL):
        if name not in entry.files and (name in REQUIRED or (folder / name).exists()):
            raise InputError(
                f"The manifest of {str(root)!r} has no SHA-256 of {name!r} for {source}; expected "
                f"one of each file that is read. Add it to the SAE's 'files'."
            )
    for name in entry.files if names is None else names:
        _verify_file(folder / name, entry.files[name], source)
    if names is None:
        require_shapes(folder)


def _entry(root: Path, folder_name: str) -> Entry:
    path = root / MANIFEST
    state = path.stat()
    known = (state.st_ino, state.st_size, state.st_mtime_ns)
    for entry in _entries(root, known):
        if entry.path == folder_name:
            return entry
    raise InputError(
        f"The manifest of {str(root)!r} lists no SAE in {folder_name!r}; expected one. Open the "
        "release again."
    )


@lru_cache(maxsize=8)
def _entries(root: Path, _: tuple[int, int, int]) -> tuple[Entry, ...]:
    """Return a manifest's SAEs; a changed file is parsed again."""
    return read_release(root).entries


def _verify_file(path: Path, expected: str, source: str) -> None:
    if not path.is_file():
        raise InputError(
            f"{str(path)!r} is missing; expected it for {source}. Get the release again."
        )
    try:
        found = sha256(path)
    except OSError as error:
        raise InputError(
            f"{str(path)!r} of {source} cannot be read ({error.strerror}). Make it readable, or get "
            "the release again."
        ) from error
    if found != expected:
        # the found hash is not shown: a link may lead to a file of the user's
        raise InputError(
            f"{str(path)!r} is damaged: its SHA-256 is not {expected[:12]}..., which the manifest "
            f"says. Restore the file, get the release again, or train {source} again."
        )


def read_cfg(folder: Path) -> Mapping[str, Any]:
    """
    Read an SAE's configuration.

    Raises:
        InputError: if it, or its metadata, is no JSON object.
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
    Refuse a configuration with other sizes than the weights; SAELens would allocate them.

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
