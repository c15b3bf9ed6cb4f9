"""Settings and rows of a speed benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import AfterValidator, Field

from saereg_plugin.checks import MAX_SEED, checked_dataclass
from saereg_plugin.errors import InputError
from saereg_plugin.machine import require_device, require_memory

_MAX_DIGITS = 12
_COPIES = 4
"""Copies of every weight in memory: itself, its gradient and Adam's two moments."""


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
        """Operations of the encoder's dense product, common to all implementations."""
        return 2.0 * self.batch * self.d_in * self.d_sae

    @property
    def bytes(self) -> int:
        """Memory of a step in float32, at least: weights, batch and dense activations."""
        weights = 2 * self.d_in * self.d_sae * _COPIES
        return 4 * (weights + self.batch * (self.d_in + self.d_sae))

    def __str__(self) -> str:
        return f"{self.d_in}-{self.d_sae}-k{self.k}-b{self.batch}"


def parse_shape(text: str) -> Shape:
    """
    Read a shape from "d_in,d_sae,k,batch".

    Raises:
        InputError: if it is not four positive integers.
    """
    parts = text.split(",")
    if len(parts) != 4 or not all(_is_size(part.strip()) for part in parts):
        raise InputError(
            f"--shape is {text!r}; expected d_in,d_sae,k,batch, for example 576,16384,32,4096."
        )
    return Shape(*(int(part) for part in parts))


def _is_size(text: str) -> bool:
    return text.isdecimal() and len(text) <= _MAX_DIGITS


def _known_device(name: str) -> str:
    require_device(name)
    return name


DEFAULT_SHAPES = (Shape(), Shape(d_sae=4096), Shape(d_sae=32_768))


@checked_dataclass
class SpeedConfig:
    """Settings of a benchmark; a value that cannot be used is an ``InputError``."""

    shapes: tuple[Shape, ...] = DEFAULT_SHAPES
    """Measured with every implementation; the first also in the variants and in the growth
    with d_sae, k and batch."""
    repeats: Annotated[int, Field(ge=3, le=1_000_000)] = 5
    """Timed steps of each implementation; a median needs three."""
    device: Annotated[str, AfterValidator(_known_device)] = "cpu"
    """Torch device."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    """Seed of inputs, weights and intervals."""
    release: str | None = None
    """Release folder whose first two SAEs are matched next to planted ones."""

    def __post_init__(self) -> None:
        device = torch.device(self.device)
        for shape in self.shapes:
            require_memory(f"A step of shape {shape}", shape.bytes, device)


@dataclass(frozen=True)
class Row:
    """
    One implementation of one piece of work.

    Rows of the same suite and case did the same work, interleaved.
    """

    suite: str
    """Kind of work."""
    case: str
    """Piece of work, sizes included."""
    implementation: str
    """Package, and variant if there are several."""
    seconds: float | None = None
    """Median time; None where memory was measured."""
    n: int = 1
    """Timed repetitions behind the median."""
    throughput: float | None = None
    """Units of work per second."""
    unit: str = ""
    """Unit of work."""
    ratio: float | None = None
    """Time (or memory) over that of the suite's reference, which is ours."""
    ratio_low: float | None = None
    """Lower end of its 95 % interval."""
    ratio_high: float | None = None
    """Upper end."""
    peak_gib: float | None = None
    """Most resident memory beyond what was there before, in a fresh process."""
    product_share: float | None = None
    """Time that the work's one unavoidable dense product takes at the machine's measured
    speed, over the time of the row."""
