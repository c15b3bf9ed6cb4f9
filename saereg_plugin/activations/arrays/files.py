"""Files of activations, memory-mapped: .npy, .safetensors, .pt."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saereg_plugin.activations.arrays.parts import (
    LONE,
    Part,
    as_tensor,
    chosen_arrays,
    make_part,
    three_dimensional,
)
from saereg_plugin.errors import InputError, suggest_path

ENDINGS = (".npy", ".safetensors", ".pt")
LABELS = "labels.npy"
"""File of a folder of arrays that holds the classes of its inputs."""
_OPEN_FILES = 8


def parts_of_files(path: Path, points: Sequence[str] | None) -> list[Part]:
    """
    Return a file of arrays, or the files of a folder in the order of their names.

    Args:
        path: ``.npy``, ``.safetensors`` or ``.pt`` file, or a folder of such files.
        points: names of the arrays; None takes all of them.

    Raises:
        InputError: if there are none, or naming the file that cannot be used.
    """
    return [_part_of_file(file, tuple(points or ())) for file in _files(path)]


def read_labels(labels: Any, inputs: int) -> Tensor:
    """
    Return labels as int64 (inputs,).

    Args:
        labels: an array, a list, or the path of an ``.npy`` file.
        inputs: number of labels that are expected.

    Raises:
        InputError: if there are more or fewer, or they are no whole numbers from 0 on.
    """
    where = "The labels"
    if isinstance(labels, str | Path):
        where = f"File {str(labels)!r}"
        labels = _opened(Path(labels), lambda path: np.load(path, allow_pickle=False))
    found = np.asarray(labels)
    if found.shape != (inputs,) or found.dtype.kind not in "iu" or (found < 0).any():
        raise InputError(
            f"{where}: shape {found.shape}, {found.dtype}; expected a class, 0 or more, for each "
            f"of the {inputs:,} inputs. Correct the labels, or leave them out."
        )
    return torch.from_numpy(found.astype(np.int64))


def _files(path: Path) -> list[Path]:
    """Return the files of arrays at a path, "shard-10" behind "shard-9"."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(
            f"Arrays {str(path)!r} do not exist. {suggest_path(path) or 'Correct the path.'}"
        )
    found = [
        file
        for file in path.iterdir()
        if file.suffix in ENDINGS and file.name != LABELS and file.name[0] != "."
    ]
    if not found:
        raise InputError(
            f"Folder {str(path)!r} holds no arrays; expected files that end in "
            f"{', '.join(ENDINGS)}. Choose another folder."
        )
    return sorted(found, key=lambda file: _natural(file.name))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sorting key in which numbers are compared as numbers."""
    pieces = re.findall(r"\d+|\D+", name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in pieces]


def _part_of_file(file: Path, points: tuple[str, ...]) -> Part:
    state = file.stat()
    name = f"File {str(file)!r}"
    identity = (file.name, state.st_size, state.st_mtime_ns)
    return make_part(name, lambda: _mapped(file, points, *identity[1:]), identity)


@lru_cache(maxsize=_OPEN_FILES)
def _mapped(
    file: Path, points: tuple[str, ...], *_changed: int
) -> Mapping[str, Tensor]:
    """Return a file's arrays by point; kept open, and opened anew when the file changed."""
    if file.suffix not in ENDINGS:
        raise InputError(
            f"File {str(file)!r} is of an unknown kind; expected one that ends in "
            f"{', '.join(ENDINGS)}."
        )
    reader = {".npy": _map_numpy, ".safetensors": _map_safetensors, ".pt": _map_torch}
    found = _opened(file, reader[file.suffix])
    where = f"File {str(file)!r}"
    chosen = chosen_arrays(found, points, f"in file {str(file)!r}")
    return {
        name: three_dimensional(array, f"{where}, {name!r}")
        for name, array in chosen.items()
    }


def _opened(file: Path, read: Callable[[Path], Any]) -> Any:
    """Read a file; turn errors of its format into one that names the file."""
    try:
        return read(file)
    except InputError:
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"File {str(file)!r} cannot be read as activations ({reason}). It may be cut short, "
            "or hold other objects than arrays; write it again."
        ) from error


def _map_numpy(file: Path) -> dict[str, Tensor]:
    # mode "c" keeps changes in memory; torch wants writable memory
    array = np.load(file, mmap_mode="c", allow_pickle=False)
    return {LONE: as_tensor(array, str(file))}


def _map_safetensors(file: Path) -> dict[str, Tensor]:
    opened = safe_open(file, framework="pt")
    names = opened.keys()
    return {name: opened.get_tensor(name) for name in names}


def _map_torch(file: Path) -> dict[str, Tensor]:
    found = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    arrays = found if isinstance(found, Mapping) else {LONE: found}
    for name, array in arrays.items():
        if not isinstance(array, Tensor):
            raise InputError(
                f"File {str(file)!r} holds a {type(array).__name__} ({name!r}); expected a tensor, or "
                "tensors by point."
            )
    return {str(name): array for name, array in arrays.items()}
