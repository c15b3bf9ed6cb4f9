"""Images or audio clips that a module reads, with their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

Split: TypeAlias = Literal["train", "heldout", "all"]


@dataclass(frozen=True)
class Clip:
    """
    A piece of sound in mono.

    Attributes:
        waveform: float32 (n,), between -1 and 1.
        rate: samples per second.
        text: what is said in it; None if unknown.
    """

    waveform: npt.NDArray[np.float32]
    rate: int
    text: str | None = None

    @property
    def seconds(self) -> float:
        """Return the clip's length in seconds."""
        return len(self.waveform) / self.rate


class InputData(Protocol):
    """
    A finite set of images or clips, read one by one.

    Attributes:
        name: the name it was opened by.
        takes: "images" (PIL images in RGB) or "clips" (``Clip``).
        labels: int64 (n,), the class of each input; None without classes.
        class_names: names of the classes, by label.
    """

    @property
    def name(self) -> str: ...
    @property
    def takes(self) -> Literal["images", "clips"]: ...
    @property
    def labels(self) -> Tensor | None: ...
    @property
    def class_names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Any:
        """Return an image or a clip."""
        ...

    def title(self, number: int) -> str:
        """Return a short name of an input, for people."""
        ...

    def identity(self) -> Any:
        """Return plain JSON that changes with the inputs and the split."""
        ...
