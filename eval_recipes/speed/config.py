"""Settings and rows of a speed benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from saereg_plugin.checks import require_count, require_seed
from saereg_plugin.errors import InputError
from saereg_plugin.machine import require_device, require_memory

_MAX_REPEATS = 1_000_000
_MAX_DIGITS = 12
_COPIES = 4
"""Of every weight in memory: itself, its gradient and Adam's two moments."""


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
        # a median needs three
        require_count("repeats", self.repeats, least=3, most=_MAX_REPEATS)
        require_seed("Seed", self.seed)
        device = require_device(self.device)
        for shape in self.shapes:
            require_memory(f"A step of shape {shape}", shape.bytes, device)


@dataclass(frozen=True)
class Row:
    """
    One implementation of one piece of work.

    Rows of the same suite and case did the same work, interleaved.

    Attributes:
        suite: what kind of work.
        case: which piece of it, sizes included.
        implementation: who did it.
        seconds: median time; None where memory was measured.
        n: timed repetitions behind the median.
        throughput: units of work a second.
        unit: what is counted.
        ratio: time (or memory) of this row over that of the suite's reference, which is ours.
        ratio_low: lower end of its 95 % interval.
        ratio_high: upper end.
        peak_gib: most resident memory beyond what was there before, in a fresh process.
        product_share: time that the work's one unavoidable dense product takes at the
            machine's measured speed, over the time of the row.
    """

    suite: str
    case: str
    implementation: str
    seconds: float | None = None
    n: int = 1
    throughput: float | None = None
    unit: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    peak_gib: float | None = None
    product_share: float | None = None
