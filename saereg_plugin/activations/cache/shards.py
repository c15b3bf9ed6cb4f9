"""Shards of a cache: passes as tensors of a safetensors file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saereg_plugin.activations.passes import Pass
from saereg_plugin.checks import checked_dataclass
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path, sha256, sha256_once

PACKED_BELOW = 0.5
"""Share of kept rows below which a pass is stored without the rows that are not kept."""
REMEDY = "Remove the cache's folder and write it again."


@checked_dataclass
class Shard:
    """A finished file of a cache."""

    file: str
    bytes: NonNegativeInt
    sha256: str
    passes: NonNegativeInt
    inputs: NonNegativeInt
    rows: NonNegativeInt
    """Kept rows."""


def stored(found: Pass, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """
    Return a pass as tensors of its own on the CPU, by the names in a shard.

    Activations are (inputs, rows, d_in), or (kept rows, d_in) if less than half are kept.
    """
    pack = float(found.keep.float().mean()) < PACKED_BELOW
    tensors = {
        f"points.{point}": _copy(values[found.keep] if pack else values, dtype)
        for point, values in found.activations.items()
    }
    tensors |= {"keep": _copy(found.keep), "inputs": _copy(found.inputs)}
    if found.crossing is not None:
        tensors["crossing"] = _copy(found.crossing)
    return tensors


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of a stored pass."""
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())


def write_shard(path: Path, passes: Sequence[Mapping[str, Tensor]]) -> Shard:
    """Write stored passes into one file, in one rename."""
    tensors = {
        f"{number:06d}.{name}": tensor
        for number, one in enumerate(passes)
        for name, tensor in one.items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
        return Shard(
            file=path.name,
            bytes=temporary.stat().st_size,
            sha256=sha256(temporary),
            passes=len(passes),
            inputs=sum(len(one["inputs"]) for one in passes),
            rows=sum(int(one["keep"].sum()) for one in passes),
        )


@dataclass(frozen=True)
class OpenShard:
    """
    A shard that is mapped into memory.

    Attributes:
        file: the opened safetensors file.
        names: names of its tensors.
    """

    file: Any
    names: frozenset[str]

    def inputs(self, number: int) -> Tensor:
        """Return the numbers of the inputs of a pass, int64 (inputs,)."""
        return self.file.get_tensor(f"{number:06d}.inputs").clone()

    def read(self, number: int, points: Iterable[str], chosen: Tensor | slice) -> Pass:
        """Return a copy of a pass, or of chosen inputs of it."""
        name = f"{number:06d}"
        keep = self.file.get_tensor(f"{name}.keep")
        crossing = None
        if f"{name}.crossing" in self.names:
            crossing = _copy(self.file.get_tensor(f"{name}.crossing")[chosen])
        activations = {
            point: _unpacked(
                self.file.get_tensor(f"{name}.points.{point}"), keep, chosen
            )
            for point in points
        }
        return Pass(
            activations, _copy(keep[chosen]), self.inputs(number)[chosen], crossing
        )


def open_shard(folder: Path, shard: Shard) -> OpenShard:
    """
    Open a shard after checking its size, and its hash once a process.

    Raises:
        InputError: naming the file, if it is missing, cut short or changed.
    """
    path = folder / shard.file
    require_size(folder, shard)
    if sha256_once(path) != shard.sha256:
        raise InputError(
            f"File {str(path)!r} was changed after the cache was written: its SHA-256 is not "
            f"{shard.sha256[:12]}... {REMEDY}"
        )
    try:
        file = safe_open(path, framework="pt")
        return OpenShard(file, frozenset(file.keys()))
    except SafetensorError as error:
        raise InputError(
            f"File {str(path)!r} cannot be read ({error}). {REMEDY}"
        ) from error


def require_size(folder: Path, shard: Shard) -> None:
    """Refuse a shard that is missing or of another size than was written."""
    path = folder / shard.file
    found = path.stat().st_size if path.is_file() else None
    if found != shard.bytes:
        said = "is missing" if found is None else f"has {found:,} bytes"
        raise InputError(
            f"File {str(path)!r} {said}; expected {shard.bytes:,} bytes, as written. {REMEDY}"
        )


def _copy(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a contiguous copy on the CPU."""
    return tensor.to("cpu", dtype or tensor.dtype, copy=True).contiguous()


def _unpacked(values: Tensor, keep: Tensor, chosen: Tensor | slice) -> Tensor:
    """Return a copy of the activations (inputs, rows, d_in); rows that were left out are 0."""
    if values.dim() == 3:
        return _copy(values[chosen])
    whole = values.new_zeros(*keep.shape, values.shape[-1])
    whole[keep] = values
    return whole[chosen]
