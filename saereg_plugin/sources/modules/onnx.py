"""Weights out of ONNX files, read without the package onnx."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from saereg_plugin.errors import InputError

Field: TypeAlias = "int | memoryview"

# numbers of the fields in onnx.proto
_GRAPH, _NODE, _INITIALIZER = 7, 1, 5
_NODE_INPUT, _NODE_NAME, _NODE_KIND = 1, 3, 4
_DIMS, _TYPE, _NAME, _RAW = 1, 2, 8, 9
_FLOAT32 = 1

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True)
class Graph:
    """
    What an ONNX file holds of a network.

    Attributes:
        weights: float32 initialisers by name.
        products: names of both inputs of each MatMul node, by the node's name.
    """

    weights: dict[str, Tensor]
    products: dict[str, tuple[str, ...]]


def read_onnx(path: Path) -> Graph:
    """
    Read the float32 weights and the matrix products of an ONNX file.

    Raises:
        InputError: if it is no ONNX file.
    """
    content = memoryview(path.read_bytes())
    try:
        graph = next(value for number, value in _fields(content) if number == _GRAPH)
        entries = [
            (number, _message(value))
            for number, value in _fields(_bytes(graph))
            if number in (_NODE, _INITIALIZER)
        ]
    except (IndexError, ValueError, StopIteration) as error:
        raise InputError(
            f"File {str(path)!r} is no ONNX file ({error}). Delete it, so that it is fetched "
            "again."
        ) from error
    tensors = [fields for number, fields in entries if number == _INITIALIZER]
    nodes = [fields for number, fields in entries if number == _NODE]
    return Graph(
        weights={_text(t[_NAME][0]): _tensor(t) for t in tensors if _is_float(t)},
        products={
            _text(node[_NODE_NAME][0]): tuple(map(_text, node[_NODE_INPUT]))
            for node in nodes
            if _text(node[_NODE_KIND][0]) == "MatMul"
        },
    )


def _is_float(tensor: dict[int, list[Field]]) -> bool:
    return tensor[_TYPE] == [_FLOAT32] and _RAW in tensor


def _tensor(fields: dict[int, list[Field]]) -> Tensor:
    shape = [int(size) for size in fields.get(_DIMS, []) if isinstance(size, int)]
    values = np.frombuffer(_bytes(fields[_RAW][0]), dtype="<f4").reshape(shape)
    return torch.from_numpy(values.copy())


def _message(value: Field) -> dict[int, list[Field]]:
    """Return the fields of a message by number; a field can occur several times."""
    found: dict[int, list[Field]] = {}
    for number, inner in _fields(_bytes(value)):
        found.setdefault(number, []).append(inner)
    return found


def _fields(content: memoryview) -> Iterator[tuple[int, Field]]:
    """Yield number and value of each field of a protobuf message."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(content, at)
            yield number, value
            continue
        size = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind)
        if kind == _BYTES:
            size, at = _varint(content, at)
        if size is None or at + size > len(content):
            raise ValueError(f"field {number} of kind {kind} does not end")
        yield number, content[at : at + size]
        at += size


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """Return the number at a position, seven bits a byte, and the position after it."""
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _bytes(value: Field) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where bytes were expected")
    return value


def _text(value: Field) -> str:
    return bytes(_bytes(value)).decode()
