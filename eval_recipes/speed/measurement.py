"""Settings, rows, times and peak memory of a speed benchmark."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import torch
from pydantic import AfterValidator, Field
from tqdm.auto import tqdm

from eval_recipes.statistics.interval import Interval
from saereg_plugin.checks import MAX_SEED, checked_dataclass
from saereg_plugin.errors import InputError
from saereg_plugin.machine import peak_memory_gib, require_device, require_memory


@dataclass(frozen=True)
class Timing:
    """Seconds of single calls, in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median call."""
        return float(np.median(self.seconds))


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warm_up: int = 1,
    device: str = "cpu",
    label: str = "",
) -> dict[str, Timing]:
    """
    Time every call ``repeats`` times, in rounds of one call each.

    A machine's speed drifts; rounds spread the drift over all calls. The order within a
    round rotates, so that no call always follows the same other.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    rounds = tqdm(range(-warm_up, repeats), desc=label, leave=False)
    for number in rounds:
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            started = time.perf_counter()
            calls[name]()
            _wait(device)
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def ratio(
    slower: Timing, faster: Timing, *, seed: int = 0, resamples: int = 2000
) -> Interval:
    """
    Return the ratio of medians of two interleaved timings.

    The interval is a percentile bootstrap over rounds, which keeps pairs together.
    """
    pairs = np.array([slower.seconds, faster.seconds])
    n = pairs.shape[1]
    draws = np.random.default_rng(seed).integers(n, size=(resamples, n))
    medians = np.median(pairs[:, draws], axis=-1)
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return Interval(slower.median / faster.median, float(low), float(high), n)


def timed_rows(
    suite: str,
    case: str,
    timed: Mapping[str, Timing],
    *,
    work: float,
    unit: str,
    seed: int,
) -> Iterator[Row]:
    """
    Yield a row for each implementation; the first, which is ours, is the reference.

    ``timed`` holds timings of the same rounds, ``work`` the units of work of one call.
    """
    reference = next(iter(timed.values()))
    for name, timing in timed.items():
        against = ratio(timing, reference, seed=seed)
        yield Row(
            suite=suite,
            case=case,
            implementation=name,
            seconds=timing.median,
            n=len(timing.seconds),
            throughput=work / timing.median,
            unit=unit,
            ratio=against.value,
            ratio_low=against.low,
            ratio_high=against.high,
        )


def matmul_rate(dtype: torch.dtype, *, device: str, repeats: int = 5) -> float:
    """Return this machine's speed of large matrix products, in operations a second."""
    left = torch.randn(4096, 1024, device=device).to(dtype)
    right = torch.randn(1024, 4096, device=device).to(dtype)
    out = torch.empty(4096, 4096, dtype=dtype, device=device)

    def product() -> None:
        torch.mm(left, right, out=out)

    timed: Sequence[float] = interleaved(
        {"product": product}, repeats=repeats, warm_up=2, device=device
    )["product"].seconds
    return 2.0 * 4096 * 1024 * 4096 / float(np.median(timed))


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: str) -> float:
    """Forget earlier peaks where the system can; return the memory in use, in GiB."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**30
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return psutil.Process().memory_info().rss / 2**30


def peak_gib(device: str) -> float:
    """Return the most memory that the process had since ``reset_peak``, in GiB."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    return peak_memory_gib()


def in_fresh_process(module: str, work: list[Any], what: str) -> Any:
    """
    Run ``python -m module`` on ``work`` as JSON; return what ``answer`` printed there.

    Raises:
        RuntimeError: if that process fails, with ``what`` and its last line of output.
    """
    command = [sys.executable, "-m", module, json.dumps(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(f"{what} failed: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def answer(measure: Callable[..., Any]) -> None:
    """Call ``measure`` with the command's one argument; its last line of output is the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work")
    work = json.loads(parser.parse_args().work)
    sys.stdout.write("\n" + json.dumps(measure(*work)) + "\n")


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
    candidates: float | None = None
    """Median of the latents of a row that a screened selection computes in float32."""
    chosen: bool | None = None
    """Whether ``sparse_step="auto"`` takes the screened selection at this size, here."""
