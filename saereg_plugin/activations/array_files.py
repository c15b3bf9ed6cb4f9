"""Arrays of activations in memory and in files, read by the number of an input."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saereg_plugin.errors import InputError, suggest, suggest_path

Array = NDArray[Any] | Tensor
ENDINGS = (".npy", ".safetensors", ".pt")
LABELS = "labels.npy"
"""File of a folder of arrays that holds the classes of its inputs."""
LONE = "activations"
"""Point of an array that has no name."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_OPEN_FILES = 8
_HASHED_BYTES = 1 << 26


@dataclass(frozen=True)
class Part:
    """
    Arrays of some inputs: a file, or what the user gave.

    Attributes:
        name: what messages call it.
        read: returns the arrays by point, each (inputs, rows, d_in); files are mapped into
            memory, so that only what is used is read.
        inputs: number of inputs.
        file: name, size and time of change of the file; None in memory.
    """

    name: str
    read: Callable[[], Mapping[str, Tensor]]
    inputs: int
    file: tuple[str, int, int] | None = None


class ArrayParts:
    """
    Equally wide parts behind one another.

    Args:
        parts: at least one part.

    Attributes:
        points: d_in by point.
        rows: rows of every input.
        inputs: number of inputs of all parts.
        row_bytes: size of one row at all points.

    Raises:
        InputError: naming the part whose points, widths, rows or data type differ.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        first = _layout(parts[0])
        for part in parts[1:]:
            _require_like(first, parts[0], part)
        self.points = {point: shape[-1] for point, (shape, _) in first.items()}
        self.rows = next(shape[0] for shape, _ in first.values())
        self.row_bytes = sum(
            shape[-1] * dtype.itemsize for shape, dtype in first.values()
        )
        self._ends = torch.tensor([part.inputs for part in parts]).cumsum(0)
        self.inputs = int(self._ends[-1])

    @property
    def in_files(self) -> bool:
        """Whether the arrays are read from files."""
        return self.parts[0].file is not None

    def read(self, numbers: Tensor) -> dict[str, Tensor]:
        """
        Return copies of the activations of inputs (int64), by point (inputs, rows, d_in).

        Raises:
            InputError: naming part and row of a NaN or an infinity.
        """
        owners = torch.bucketize(numbers, self._ends, right=True)
        lengths = torch.unique_consecutive(owners, return_counts=True)[1].tolist()
        pieces = [self._read_part(some) for some in numbers.split(lengths)]
        if len(pieces) == 1:
            return pieces[0]
        return {point: torch.cat([p[point] for p in pieces]) for point in self.points}

    def identity(self) -> Any:
        """Return plain JSON: names, sizes and times of files, or a hash of arrays in memory."""
        if self.in_files:
            return [list(part.file or ()) for part in self.parts]
        arrays = self.parts[0].read()
        return {point: _content_hash(array) for point, array in arrays.items()}

    def _read_part(self, numbers: Tensor) -> dict[str, Tensor]:
        """Return the activations of inputs of a single part."""
        owner = int(torch.bucketize(numbers[0], self._ends, right=True))
        part = self.parts[owner]
        local = numbers - (int(self._ends[owner]) - part.inputs)
        found = {point: array[local] for point, array in part.read().items()}
        for point, values in found.items():
            _require_finite(values, local, part, point)
        return found


def parts_of_arrays(
    arrays: Array | Mapping[str, Array], point: str | None
) -> list[Part]:
    """
    Return arrays in memory as a part.

    Raises:
        InputError: for another shape or data type, or points of different lengths.
    """
    named = arrays if isinstance(arrays, Mapping) else {point or LONE: arrays}
    if not named:
        raise InputError(
            "The mapping of arrays is empty; expected an array for each point."
        )
    tensors = {
        name: _three_dimensional(_as_tensor(array, name), f"Array {name!r}")
        for name, array in named.items()
    }
    return [_part("the arrays", lambda: tensors)]


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
    return _part(name, lambda: _mapped(file, points, *identity[1:]), identity)


def _part(
    name: str,
    read: Callable[[], Mapping[str, Tensor]],
    file: tuple[str, int, int] | None = None,
) -> Part:
    """Make a part; refuse points that differ in inputs or rows, and a part without inputs."""
    arrays = read()
    shapes = {point: tuple(array.shape[:2]) for point, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(
            f"{name}: points have different numbers of inputs and rows: {shapes}; expected the "
            "same rows at every point."
        )
    inputs = next(iter(shapes.values()))[0]
    if inputs == 0:
        raise InputError(f"{name} has no inputs; expected at least one. Leave it out.")
    return Part(name, read, inputs, file)


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
    chosen = _chosen(found, points, where)
    return {
        name: _three_dimensional(array, f"{where}, {name!r}")
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
    return {LONE: _as_tensor(array, str(file))}


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


def _chosen(
    found: Mapping[str, Tensor], points: Sequence[str], where: str
) -> Mapping[str, Tensor]:
    """Return the arrays of points; a lone array takes the name of a lone point."""
    if not points:
        return found
    if len(found) == len(points) == 1:
        return {points[0]: next(iter(found.values()))}
    for point in points:
        if point not in found:
            raise InputError(f"{where} has no array {point!r}. {suggest(point, found)}")
    return {point: found[point] for point in points}


def _as_tensor(array: Array, name: str) -> Tensor:
    """Return an array as a tensor on the CPU that shares its memory."""
    if isinstance(array, Tensor):
        return array.detach().cpu()
    given = cast(Any, array)
    if not isinstance(given, np.ndarray):
        raise InputError(
            f"Array {name!r} is a {type(given).__name__}; expected a numpy array or a torch tensor."
        )
    if given.dtype not in (np.float32, np.float16, np.float64):
        raise InputError(_wrong_dtype(f"Array {name!r}", str(given.dtype)))
    return torch.from_numpy(given if given.flags.writeable else given.copy())


def _three_dimensional(array: Tensor, where: str) -> Tensor:
    """Return an array as (inputs, rows, d_in); refuse other shapes and data types."""
    if array.dtype not in _DTYPES:
        raise InputError(_wrong_dtype(where, str(array.dtype).removeprefix("torch.")))
    if array.dim() not in (2, 3) or 0 in array.shape[1:]:
        raise InputError(
            f"{where} has the shape {tuple(array.shape)}; expected [inputs, d_in], or [inputs, "
            "rows, d_in]."
        )
    return array[:, None] if array.dim() == 2 else array


def _wrong_dtype(where: str, dtype: str) -> str:
    return (
        f"{where} is of {dtype}; expected floating numbers of this machine's byte order, such as "
        "float32. Convert it first."
    )


def _layout(part: Part) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return (rows, d_in) and data type by point."""
    return {p: (tuple(a.shape[1:]), a.dtype) for p, a in part.read().items()}


def _require_like(first: Any, first_part: Part, part: Part) -> None:
    """Refuse a part whose layout is not the first part's."""
    other = _layout(part)
    if other != first:
        raise InputError(
            f"{part.name} holds {_described(other)}, but {first_part.name} holds "
            f"{_described(first)}; expected the same points, rows, widths and data types in all "
            "files. Move one of them away."
        )


def _described(layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> str:
    words = (
        f"{point!r} {rows} x {d_in} {str(dtype).removeprefix('torch.')}"
        for point, ((rows, d_in), dtype) in layout.items()
    )
    return ", ".join(words)


def _require_finite(values: Tensor, numbers: Tensor, part: Part, point: str) -> None:
    """Refuse NaN and infinities; a finite sum, which is fast, has none."""
    if values.sum(dtype=torch.float64).isfinite():
        return
    broken = ~values.isfinite().flatten(1).all(1)
    if broken.any():
        row = int(numbers[broken][0])
        raise InputError(
            f"{part.name} holds NaN or an infinity at {point!r} of input {row:,} (counted from 0); "
            "expected finite activations. Leave the input out, or write it again."
        )


def _content_hash(array: Tensor) -> str:
    """Return a hash of an array's shape, data type and content."""
    digest = hashlib.sha256(f"{tuple(array.shape)} {array.dtype}".encode())
    for piece in _pieces(array):
        digest.update(piece.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _pieces(array: Tensor) -> Iterator[Tensor]:
    inputs = max(1, _HASHED_BYTES // max(1, array[0].numel() * array.itemsize))
    return iter(array.split(inputs))
