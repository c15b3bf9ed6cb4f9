"""Mixing of rows: sizes that cannot work, and the memory of a refill."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from saereg_plugin.activations.arrays import ArraySource
from saereg_plugin.activations.stream import Mixing
from saereg_plugin.errors import InputError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected one row"),
        ({"batch_size": 9, "buffer_rows": 8}, "buffer_rows=8 is less than one batch"),
        ({"batch_size": 2, "fraction": 1.0}, "mixing fraction is 1.0; expected 0 or"),
        ({"batch_size": 2, "fraction": -0.5}, "mixing fraction is -0.5"),
    ],
)
def test_batches_that_would_lose_rows_are_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Mixing(**fields)


def test_batches_larger_than_the_buffer_are_refused() -> None:
    source = ArraySource(torch.randn(40, 3), heldout=0)
    with pytest.raises(InputError, match="Raise buffer_rows, or lower batch_size"):
        source.batches(32, buffer_rows=16)


class Parts(TorchDispatchMode):
    """Counts the joined tensors that are still held when their copy is shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.joined: list[weakref.ref[torch.Tensor]] = []
        self.held: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.cat.default and len(args[0]) > 2:
            self.joined = [weakref.ref(part) for part in args[0]]
        # rows of a matrix, not a pass
        if func is torch.ops.aten.index.Tensor and args[0].ndim == 2 and self.joined:
            # the last pass is still in a variable
            self.held.append(sum(part() is not None for part in self.joined[:-1]))
            self.joined = []
        return func(*args, **(kwargs or {}))


def test_the_parts_of_a_buffer_are_freed_before_it_is_shuffled() -> None:
    source = ArraySource(torch.randn(64, 2, 3), heldout=0, inputs_per_pass=4)
    stream = source.stream(Mixing(batch_size=16, buffer_rows=64), prefetch=0)
    with Parts() as parts:
        for _ in range(8):
            next(stream)
    assert len(parts.held) > 2
    assert set(parts.held) == {0}
