"""Timing implementations side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm


@dataclass(frozen=True)
class Timing:
    """Seconds of single calls, in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median call."""
        return float(np.median(self.seconds))


@dataclass(frozen=True)
class Ratio:
    """How many times as long one implementation takes as another, with a 95 % interval."""

    value: float
    low: float
    high: float


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

    A machine's speed drifts; in rounds the drift hits all alike. The order within a
    round rotates, so that none always follows the same other.
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
) -> Ratio:
    """
    Return the ratio of medians of two interleaved timings.

    The interval is a percentile bootstrap over rounds, which keeps pairs together.
    """
    pairs = np.array([slower.seconds, faster.seconds])
    draws = np.random.default_rng(seed).integers(
        pairs.shape[1], size=(resamples, pairs.shape[1])
    )
    medians = np.median(pairs[:, draws], axis=-1)
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return Ratio(slower.median / faster.median, float(low), float(high))


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
