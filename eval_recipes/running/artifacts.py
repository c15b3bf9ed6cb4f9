"""Artefacts: folders of what evaluations keep between runs, keyed and hashed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from sae_lens import SAE

from eval_recipes.results.files import plain
from saereg_plugin.errors import InputError
from saereg_plugin.files import (
    atomic_path,
    read_json,
    recover,
    scratch_folder,
    sha256_once,
    write_json,
)
from saereg_plugin.owned_folder import MARK, adopt, open_owned, require_owned
from saereg_plugin.sources.assets import cache_dir, require_writable_cache

logger = logging.getLogger(__name__)

KIND = "artifacts"
"""What the mark of a folder of artefacts says."""
KEY_FILE = "key.json"
INDEX_FILE = "index.json"
LOCK_FILE = ".lock"
_SCRATCH = "scratch"
_DAMAGED = "What it lists is made again."

# A new version of any of these may compute other values.
_PACKAGES = (
    "saereg-plugin",
    "sae-bench",
    "sae-lens",
    "sae-probes",
    "transformer-lens",
    "transformers",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "datasets",
    "pandas",
    "pyarrow",
)


@dataclass(frozen=True)
class ArtifactFolder:
    """
    A folder of files that one key determines, with the SHA-256 of each in an index.

    A file is read only if it has its recorded hash. None of them is ever unpickled: readers
    use safetensors, npz, JSON, parquet, or ``torch.load(weights_only=True)``.

    Attributes:
        path: the folder; its name is a hash of ``key``.
        key: what determines the files, as JSON.
        lock: held by the one process that writes.
    """

    path: Path
    key: Mapping[str, Any] = field(compare=False)
    lock: FileLock = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lock", FileLock(self.path / LOCK_FILE))

    def index(self) -> dict[str, str | None]:
        """Return the hash of each file by name; None for files that were never finished."""
        path = self.path / INDEX_FILE
        if not path.exists():
            return {}
        try:
            found = read_json(path, remedy=_DAMAGED)
            files = found["files"]
            sound = all(
                value is None or isinstance(value, str) for value in files.values()
            )
        except InputError as error:
            logger.warning("%s", error)
            return {}
        except (AttributeError, KeyError, TypeError):
            sound, files = False, {}
        if not sound:
            logger.warning("File %r is damaged. %s", str(path), _DAMAGED)
            return {}
        return files

    def read(self, name: str) -> Path | None:
        """Return the path of a sound file; None, after saying so, if it must be made again."""
        expected = self.index().get(name)
        if expected is None:
            return None
        trouble = self._trouble(name, expected)
        if trouble is None:
            return self.path / name
        logger.warning(
            "Artefact %r %s; it is made again.", str(self.path / name), trouble
        )
        return None

    def require(self, name: str) -> Path:
        """
        Return the path of a file that was sound a moment ago.

        Raises:
            RuntimeError: if it was removed or damaged meanwhile.
        """
        path = self.read(name)
        if path is None:
            raise RuntimeError(
                f"Artefact {str(self.path / name)!r} was removed or damaged while it was in use; "
                "run the evaluation again"
            )
        return path

    def ensure(self, name: str, make: Callable[[Path], None]) -> Path:
        """
        Return the path of a file; if there is no sound one, ``make`` writes it.

        Processes that ask at the same time wait for the first one.
        """
        expected = self.index().get(name)
        if expected is None or self._trouble(name, expected) is not None:
            with self.locked():
                if self.read(name) is None:
                    with self.write(name) as temporary:
                        make(temporary)
        return self.require(name)

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """Yield a path to write to; the file then appears whole and hashed, or not at all."""
        with self.locked():
            # Before it is written, so that no killed process leaves a file that is unlisted.
            self._enter(name, None)
            with atomic_path(self.path / name) as temporary:
                yield temporary
            self._enter(name, sha256_once(self.path / name))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing; first remove what killed ones left half-written."""
        if self.lock.is_locked:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with self.lock:
            self.recover()
            yield

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a folder on the same disk for work before ``write``, and lock this one."""
        with self.locked(), scratch_folder(self.path / _SCRATCH) as folder:
            yield folder

    def recover(self) -> None:
        """Remove what killed processes left half-written; only while the folder is locked."""
        if any(path.suffix in (".tmp", ".old") for path in self.path.iterdir()):
            for name in (_SCRATCH, KEY_FILE, INDEX_FILE, *self.index()):
                recover(self.path / name)

    def touch(self) -> None:
        """Note that the folder is used now."""
        index = self.path / INDEX_FILE
        if index.exists():
            # Another user's: its age is then that of the last change.
            with contextlib.suppress(PermissionError):
                os.utime(index)

    def _trouble(self, name: str, expected: str) -> str | None:
        try:
            found = sha256_once(self.path / name)
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"
        return None if found == expected else "is damaged (its SHA-256 differs)"

    def _enter(self, name: str, digest: str | None) -> None:
        if not (self.path / KEY_FILE).is_file():
            write_json(self.path / KEY_FILE, self.key)
        files = self.index()
        if name not in files or files[name] != digest:
            write_index(self.path, {**files, name: digest})


def write_index(folder: Path, files: Mapping[str, str | None]) -> None:
    """Write the index of an artefact folder: hashes by name, None for files not to be read."""
    record = {"written_by": "saereg-plugin", "files": dict(sorted(files.items()))}
    write_json(folder / INDEX_FILE, record)


def default_artifacts() -> Path:
    """Return the folder of artefacts in the user's cache."""
    return cache_dir() / "artifacts"


def check_artifacts(root: Path) -> None:
    """
    Refuse what ``open_artifacts`` refuses, but whether it can be written to; writes nothing.

    Raises:
        InputError: if it holds other files, or is a folder that is never ours.
    """
    if root.absolute() != default_artifacts() or (root / MARK).is_file():
        require_owned(root, KIND)


def open_artifacts(root: Path) -> Path:
    """
    Make a folder one of artefacts, or check that it is; return it.

    The one in the user's cache is ours whatever it holds: 0.1.0 left no mark there.

    Raises:
        InputError: if it holds other files, is a folder that is never ours, such as the home
            folder, or cannot be written to.
    """
    if root.absolute() == default_artifacts():
        require_writable_cache(root)
        if not (root / MARK).is_file():
            _list_unmarked(root)
            adopt(root, KIND)
    open_owned(root, KIND)
    return root


def _list_unmarked(root: Path) -> None:
    """List the files of 0.1.0, so that they can be removed; they are never read."""
    for folder in _folders(root):
        if not (folder.path / INDEX_FILE).exists():
            paths = [path for path in folder.path.rglob("*") if _is_plain_file(path)]
            names = {path.relative_to(folder.path).as_posix() for path in paths}
            write_index(folder.path, dict.fromkeys(names - {KEY_FILE, LOCK_FILE}))


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that compute."""
    return {name: version(name) for name in _PACKAGES}


def artifact_folder(
    root: Path, eval: str, determinants: Mapping[str, Any]
) -> ArtifactFolder:
    """
    Return (and make) the folder of what ``determinants`` determine, ``root/eval/<hash>``.

    Upstream's own caches are keyed by names only, so a second SAE of the same name got
    the first one's results. Here the key holds every determinant, the versions of the
    packages that compute, and the thread count, on which sums depend.

    Args:
        root: folder of all artefacts.
        eval: name of the evaluation, or of what several of them share.
        determinants: plain values: model, hook, data, sizes, data type, seed, and
            ``weights_hash`` where a result of the SAE is kept.

    Raises:
        InputError: if ``root`` is not ours (``open_artifacts``).
    """
    open_artifacts(root)
    key = {
        **plain(determinants),
        "threads": torch.get_num_threads(),
        "packages": package_versions(),
    }
    path = root / eval / folder_name(key)
    if not (path / KEY_FILE).is_file():
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / KEY_FILE, key)
    folder = ArtifactFolder(path, key)
    folder.touch()
    return folder


def folder_name(key: Mapping[str, Any]) -> str:
    """Return the name of the folder of a key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]


def folders_below(root: Path) -> list[ArtifactFolder]:
    """
    Return every artefact folder below a folder of artefacts.

    One is an artefact folder if its name is the hash of its key; others' are left out,
    such as credentials in a file that happens to be called ``key.json``.

    Raises:
        InputError: if ``root`` has not our mark.
    """
    require_owned(root, KIND)
    return _folders(root)


def _folders(root: Path) -> list[ArtifactFolder]:
    found: list[ArtifactFolder] = []
    for path in sorted(root.glob(f"*/*/{KEY_FILE}")):
        folder = path.parent
        if folder.is_symlink() or folder.parent.is_symlink():
            continue
        try:
            key = read_json(path, remedy="It is left alone.")
        except InputError as error:
            logger.debug("%s", error)
            continue
        if isinstance(key, dict) and folder_name(key) == folder.name:
            found.append(ArtifactFolder(folder, key))
    return found


def weights_hash(sae: SAE[Any]) -> str:
    """Return a hash of an SAE's weights and configuration."""
    digest = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(name.encode())
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    digest.update(json.dumps(plain(sae.cfg.to_dict()), sort_keys=True).encode())
    return digest.hexdigest()
