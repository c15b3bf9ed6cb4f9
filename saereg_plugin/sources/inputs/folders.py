"""Folders of images or of audio files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from saereg_plugin.errors import InputError
from saereg_plugin.files import folder_identity
from saereg_plugin.machine import require_extra
from saereg_plugin.sources.inputs.listed import ListedData, held_out
from saereg_plugin.sources.inputs.sound import read_clip

IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SOUNDS = (".aiff", ".flac", ".mp3", ".ogg", ".wav")
_TRAIN = ("train", "training")
_HELDOUT = ("heldout", "test", "val", "valid", "validation")
_METADATA = ("metadata.csv", "metadata.tsv")
_TEXTS = ("text", "transcription", "transcript", "sentence")
_MOST_CHECKED = 50_000
"""Files of which the header is read before anything else starts."""


def open_folder(name: str, folder: Path) -> ListedData:
    """
    Return the images or clips of a folder.

    Subfolders are classes. With subfolders ``train`` and ``val`` or ``test`` the latter is
    held out, otherwise a tenth, by the hash of the path. A clip's transcript is in a text file
    of the same name, or in ``metadata.csv`` with the columns ``file_name`` and ``text``.

    Raises:
        InputError: for a folder without images and sounds, or with both; for a file that
            cannot be read, or an extra that is not installed.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    images = [path for path in paths if path.suffix.lower() in IMAGES]
    sounds = [path for path in paths if path.suffix.lower() in SOUNDS]
    if bool(images) == bool(sounds):
        raise InputError(_wrong(name, len(paths), images, sounds))
    if images:
        require_extra("vision", f"The folder of images {name!r}")
        return _listed(name, folder, "images", images, read_image, _image_header)
    require_extra("audio", f"The folder of audio files {name!r}")
    texts = _transcripts(folder, sounds)
    return _listed(
        name,
        folder,
        "clips",
        sounds,
        lambda path: read_clip(path, str(path), text=texts.get(path)),
        _sound_header,
    )


def _wrong(name: str, n: int, images: Sequence[Path], sounds: Sequence[Path]) -> str:
    if images:
        return (
            f"Folder {name!r} has images ({images[0].name!r}) and audio files "
            f"({sounds[0].name!r}); expected one of both. Name a folder inside."
        )
    return (
        f"Folder {name!r} has no image and no audio file ({n} files in all); expected "
        f"{', '.join(IMAGES)} or {', '.join(SOUNDS)}, also in subfolders. Name another folder."
    )


def _listed(
    name: str,
    folder: Path,
    takes: Literal["images", "clips"],
    paths: Sequence[Path],
    read: Callable[[Path], Any],
    check: Callable[[Path], None],
) -> ListedData:
    for path in paths[:: -(-len(paths) // _MOST_CHECKED)]:
        check(path)
    inner = [path.relative_to(folder) for path in paths]
    given = _given_sides(inner)
    places = [path.parts[1:] if given else path.parts for path in inner]
    classes = sorted({"/".join(parts[:-1]) for parts in places})
    labels = [classes.index("/".join(parts[:-1])) for parts in places]
    return ListedData(
        name=name,
        takes=takes,
        read=lambda number: read(paths[number]),
        titles=[path.as_posix() for path in inner],
        source=folder_identity(folder),
        heldout=given or [held_out(path.as_posix()) for path in inner],
        labels=torch.tensor(labels) if len(classes) > 1 else None,
        class_names=classes if len(classes) > 1 else (),
    )


def _given_sides(inner: Sequence[Path]) -> list[bool]:
    """Return which files are held out if every file is in train or in val; otherwise []."""
    tops = {path.parts[0].lower() if len(path.parts) > 1 else "" for path in inner}
    if tops <= {*_TRAIN, *_HELDOUT} and tops & {*_TRAIN} and tops & {*_HELDOUT}:
        return [path.parts[0].lower() in _HELDOUT for path in inner]
    return []


def read_image(path: Path) -> Any:
    """
    Return an image in RGB, transparent parts white.

    Raises:
        InputError: if it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if not image.has_transparency_data:
                return image.convert("RGB")
            drawn = image.convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    white = Image.new("RGBA", drawn.size, "white")
    return Image.alpha_composite(white, drawn).convert("RGB")


def _image_header(path: Path) -> None:
    from PIL import Image

    try:
        with Image.open(path):
            return
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"Image {str(path)!r} cannot be read ({error}). Remove the file or save it again."
    )


def _sound_header(path: Path) -> None:
    import soundfile

    try:
        soundfile.info(str(path))
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read as audio ({error}). Remove the file or save it again."
        ) from error


def _transcripts(folder: Path, sounds: Sequence[Path]) -> Mapping[Path, str]:
    """Return what is said in the clips that have a transcript."""
    found: dict[Path, str] = {}
    for path in folder.rglob("metadata.*"):
        if path.name in _METADATA:
            found |= _metadata(path)
    for path in sounds:
        text = path.with_suffix(".txt")
        if text.is_file():
            found[path] = text.read_text(encoding="utf-8").strip()
    return found


def _metadata(path: Path) -> dict[Path, str]:
    """Return the transcripts of a table, by path."""
    separator = "," if path.suffix == ".csv" else "\t"
    table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    column = next((name for name in _TEXTS if name in table), None)
    if "file_name" not in table or column is None:
        raise InputError(
            f"{str(path)!r} has the columns {list(table.columns)}; expected 'file_name' and "
            f"{' or '.join(map(repr, _TEXTS))}. Rename them."
        )
    names = [path.parent / name for name in table["file_name"]]
    return dict(zip(names, table[column], strict=True))
