"""What a speed benchmark measures."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saereg_plugin.errors import InputError


@dataclass(frozen=True)
class Shape:
    """The sizes of one TopK training step."""

    d_in: int = 576
    d_sae: int = 16_384
    k: int = 32
    batch: int = 4096

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"{name} of a shape is {value}; expected 1 or more.")
        if self.k > self.d_sae:
            raise InputError(
                f"k={self.k} of a shape is above d_sae={self.d_sae}; expected at most that."
            )

    @property
    def encoder_flop(self) -> float:
        """Operations of the encoder's dense product, which every implementation makes."""
        return 2.0 * self.batch * self.d_in * self.d_sae

    def __str__(self) -> str:
        return f"{self.d_in}-{self.d_sae}-k{self.k}-b{self.batch}"


def parse_shape(text: str) -> Shape:
    """
    Read a shape from "d_in,d_sae,k,batch".

    Raises:
        InputError: if it is not four positive integers.
    """
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(
            f"--shape is {text!r}; expected d_in,d_sae,k,batch, for example 576,16384,32,4096."
        )
    return Shape(*(int(part) for part in parts))


DEFAULT_SHAPES = (Shape(), Shape(d_sae=4096), Shape(d_sae=32_768))


@dataclass(frozen=True)
class SpeedConfig:
    """
    Settings of a benchmark.

    Attributes:
        shapes: measured with every implementation; the first also in the variants and in
            the growth with d_sae, k and batch.
        repeats: timed steps of each implementation.
        device: torch device.
        seed: of inputs, weights and intervals.
        release: release folder whose first two SAEs are matched beside planted ones.
    """

    shapes: tuple[Shape, ...] = DEFAULT_SHAPES
    repeats: int = 5
    device: str = "cpu"
    seed: int = 0
    release: str | None = None

    def __post_init__(self) -> None:
        if self.repeats < 3:
            raise InputError(
                f"repeats is {self.repeats}; expected 3 or more for a median."
            )
        if torch.device(self.device).type == "cuda" and not torch.cuda.is_available():
            raise InputError("device is 'cuda', but this torch sees no GPU; use 'cpu'.")
