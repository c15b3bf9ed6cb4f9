"""Several sets of images or clips, one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs.data import InputData


class JoinedData:
    """
    Sets of inputs joined into one, in which the class of an input is its set.

    Args:
        parts: the sets, two or more.

    Raises:
        InputError: for fewer than two, a set that is named twice, or images among clips.
    """

    def __init__(self, parts: Sequence[InputData]) -> None:
        names = [part.name for part in parts]
        if len(names) < 2 or len(set(names)) < len(names):
            raise InputError(
                f"Data {names} are joined; expected two different sets or more."
            )
        kinds = {part.takes for part in parts}
        if len(kinds) > 1:
            raise InputError(
                f"Data {names} hold {' and '.join(sorted(kinds))}; expected one kind. Train on "
                "them one after the other."
            )
        self._parts = list(parts)
        self._ends = list(accumulate(len(part) for part in parts))

    @property
    def name(self) -> str:
        """Names of the sets."""
        return " + ".join(part.name for part in self._parts)

    @property
    def takes(self) -> Literal["images", "clips"]:
        """What the sets hold."""
        return self._parts[0].takes

    @property
    def labels(self) -> Tensor:
        """Number of each input's set, int64 (n,)."""
        sizes = torch.tensor([len(part) for part in self._parts])
        return torch.arange(len(self._parts)).repeat_interleave(sizes)

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the sets."""
        return [part.name for part in self._parts]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, number: int) -> Any:
        """Return an image or a clip."""
        part, place = self._place(number)
        return part[place]

    def title(self, number: int) -> str:
        """Return a short name of an input, with that of its set."""
        part, place = self._place(number)
        return f"{part.name}: {part.title(place)}"

    def identity(self) -> Any:
        """Return plain JSON that changes with the inputs and the split."""
        return [part.identity() for part in self._parts]

    def _place(self, number: int) -> tuple[InputData, int]:
        """Return the set of an input and its number there; raises IndexError behind the end."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        part = bisect_right(self._ends, number)
        before = self._ends[part - 1] if part else 0
        return self._parts[part], number - before
