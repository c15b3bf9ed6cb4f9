"""Rows of a pass, gathered in memory that grows by doubling."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1 << 20
"""Values of the first allocation."""


class RowBuffer:
    """
    Rows of one shape and dtype on the CPU, joined as they come.

    A list of small tensors that stay between the large ones of a pass leaves holes that the
    allocator cannot give back: 42 MB of codes held 1.6 GB. Few large allocations leave none.
    """

    def __init__(self) -> None:
        self._held: Tensor | None = None
        self._rows = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._rows

    def add(self, rows: Tensor) -> None:
        """Add rows [n, ...]; all have the shape and dtype of the first."""
        room = self._room(rows)
        room[self._rows : self._rows + len(rows)] = rows
        self._rows += len(rows)

    def joined(self) -> Tensor:
        """
        Return all rows [n, ...], a view of the buffer.

        Raises:
            ValueError: if nothing was added.
        """
        if self._held is None:
            raise ValueError("nothing was added")
        return self._held[: self._rows]

    def _room(self, rows: Tensor) -> Tensor:
        """Return the buffer with room for further rows."""
        needed = self._rows + len(rows)
        if self._held is None:
            width = max(1, rows[:1].numel())
            shape = (max(needed, _LEAST // width), *rows.shape[1:])
            self._held = torch.empty(shape, dtype=rows.dtype)
        elif needed > len(self._held):
            larger = max(needed, 2 * len(self._held))
            grown = torch.empty((larger, *rows.shape[1:]), dtype=rows.dtype)
            grown[: self._rows] = self._held[: self._rows]
            self._held = grown
        return self._held
