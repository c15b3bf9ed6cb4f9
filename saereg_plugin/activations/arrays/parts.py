"""Arrays of activations, read by the number of an input."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saereg_plugin.activations.extraction import points_matching
from saereg_plugin.errors import InputError
from saereg_plugin.sources.fingerprint import content_hash

T = TypeVar("T")

Array = NDArray[Any] | Tensor
LONE = "activations"
"""Point of an array that has no name."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
        return {point: content_hash(array) for point, array in arrays.items()}

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
    arrays: Array | Mapping[str, Array], points: Sequence[str] | None
) -> list[Part]:
    """
    Return arrays in memory as a part.

    Raises:
        InputError: for another shape or data type, points of different lengths, or an
            unknown point.
    """
    named = arrays if isinstance(arrays, Mapping) else {LONE: arrays}
    chosen = chosen_arrays(named, points, "in the mapping")
    tensors = {
        name: three_dimensional(as_tensor(array, name), f"Array {name!r}")
        for name, array in chosen.items()
    }
    return [make_part("The mapping", lambda: tensors)]


def chosen_arrays(
    found: Mapping[str, T], points: Sequence[str] | None, where: str
) -> Mapping[str, T]:
    """
    Return the arrays of points or patterns; an array without a name takes that of a lone point.

    Raises:
        InputError: for a point without an array.
    """
    if not points:
        return found
    if list(found) == [LONE] and len(points) == 1:
        return {points[0]: found[LONE]}
    return {
        point: found[point] for point in points_matching(points, found, where=where)
    }


def make_part(
    name: str,
    read: Callable[[], Mapping[str, Tensor]],
    file: tuple[str, int, int] | None = None,
) -> Part:
    """Make a part; refuse points that differ in inputs or rows, and a part without inputs."""
    arrays = read()
    if not arrays:
        raise InputError(f"{name} has no arrays; expected one for each point.")
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


def as_tensor(array: Array, name: str) -> Tensor:
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
    with warnings.catch_warnings():
        # nothing here writes into an array
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(
            given if min(given.strides, default=0) >= 0 else given.copy()
        )


def three_dimensional(array: Tensor, where: str) -> Tensor:
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
