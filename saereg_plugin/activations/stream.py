"""Stream of shuffled activations for many SAEs, exactly resumable."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from saereg_plugin.activations.passes import Feed
from saereg_plugin.errors import InputError

T = TypeVar("T")

_CORES_FOR_TWO = 4


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """
    How rows become batches.

    Raises:
        InputError: for a batch without rows, a buffer smaller than a batch, or a fraction outside
            [0, 1).
    """

    batch_size: int
    """Rows of a batch."""
    buffer_rows: int = 65_536
    """Rows held for shuffling."""
    fraction: float = 0.5
    """Share of the buffer kept back when it is refilled; 0 serves rows in order."""
    seed: int = 0
    """Seed of the shuffling."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(
                f"batch_size is {self.batch_size}; expected one row or more."
            )
        if self.buffer_rows < self.batch_size:
            raise InputError(
                f"buffer_rows={self.buffer_rows} is less than one batch of {self.batch_size}; expected "
                "at least as many. Raise buffer_rows, or lower batch_size."
            )
        if not 0 <= self.fraction < 1:
            raise InputError(
                f"The mixing fraction is {self.fraction}; expected 0 or more and less than 1."
            )


class _Rows(NamedTuple):
    """
    Kept rows of one pass by point, [n, d_in], its number of inputs, and its time.

    If pairs are counted, ``crossing`` [n] marks rows t whose pair (t - 1, t) crosses documents.
    """

    activations: dict[str, Tensor]
    inputs: int
    seconds: float
    crossing: Tensor | None

    def __len__(self) -> int:
        return len(next(iter(self.activations.values())))


class Prefetch(Generic[T]):
    """
    Results of a function, computed in a background thread ahead of ``take``.

    Results come in the order of the calls. An error of a call is raised by the ``take``
    that would have returned its result.

    Args:
        produce: makes the next result; one thread calls it at a time.
        depth: number of results computed ahead; 0 computes them in ``take``.
    """

    def __init__(self, produce: Callable[[], T], depth: int):
        self._produce = produce
        self._depth = depth
        self._waiting: deque[Future[T]] = deque()
        self._pool = ThreadPoolExecutor(1, "prefetch") if depth else None

    def take(self) -> T:
        """Return the next result."""
        if self._pool is None:
            return self._produce()
        while len(self._waiting) <= self._depth:
            self._waiting.append(self._pool.submit(self._produce))
        return self._waiting.popleft().result()

    def close(self) -> None:
        """Wait for the running call and drop the others; ends ``take``."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


class ActivationStream(Iterator[dict[str, Tensor]]):
    """
    Batches of float32 activations by point, each [batch_size, d_in].

    Works as SAELens' mixing buffer: a pool is filled, shuffled, and served down to the share
    that is kept back for mixing. Shuffling has its own generator and one order for all
    points, so the batches of a point do not depend on the others. ``state_dict`` holds pool,
    generator and position, so that a resumed run sees the same batches. Another thread may
    compute passes ahead, which changes no batch.

    Args:
        feed: passes over the inputs; used by one thread at a time.
        points: d_in by point.
        mixing: how rows become batches.
        device: of the activations.
        rows_per_pass: rows that a pass gives, more or less.
        prefetch: passes computed ahead; None is those of one refill of the buffer, or 0
            without enough cores.
        pairs_within: rows of every input, to count the served pairs of neighbouring rows, and
            the pairs that lie in two documents; None counts nothing.
    """

    def __init__(
        self,
        feed: Feed,
        points: Mapping[str, int],
        mixing: Mixing,
        *,
        device: torch.device | str = "cpu",
        rows_per_pass: int = 1,
        prefetch: int | None = None,
        pairs_within: int | None = None,
    ):
        self._feed = feed
        self._mixing = mixing
        self._pairs_within = pairs_within
        self._crossing = torch.empty(0, dtype=torch.bool, device=device)
        self._pairs = self._crossing_pairs = 0
        self._generator = torch.Generator().manual_seed(mixing.seed)
        self._pool: dict[str, Tensor] = {
            point: torch.empty(0, d_in, device=device) for point, d_in in points.items()
        }
        self._served = 0
        self._inputs = 0
        self.model_seconds = 0.0
        self._model_rows = 0
        depth = _depth(mixing, rows_per_pass) if prefetch is None else prefetch
        self._passes = Prefetch(self._run_model, depth)

    @property
    def seconds_per_row(self) -> float:
        """Time of the model per served row, with reading of its inputs."""
        return self.model_seconds / max(self._model_rows, 1)

    def __next__(self) -> dict[str, Tensor]:
        self._refill()
        end = self._served + self._mixing.batch_size
        batch = {point: pool[self._served : end] for point, pool in self._pool.items()}
        if self._pairs_within is not None:
            inputs = self._mixing.batch_size // self._pairs_within
            self._pairs += inputs * max(self._pairs_within - 2, 0)
            self._crossing_pairs += int(self._crossing[self._served : end].sum())
        self._served = end
        return batch

    def pairs_across_documents(self) -> dict[str, Any] | None:
        """
        Return the number of served pairs of neighbouring rows, and of crossing pairs.

        A pair is (t - 1, t) within an input, t >= 2. ``share`` is None before the first
        batch. Return None if pairs are not counted.
        """
        if self._pairs_within is None:
            return None
        share = self._crossing_pairs / self._pairs if self._pairs else None
        return {"crossing": self._crossing_pairs, "pairs": self._pairs, "share": share}

    def close(self) -> None:
        """End the second thread; the model is not used afterwards."""
        self._passes.close()

    def peek(self) -> dict[str, Tensor]:
        """Return the activations that are waiting to be served by point, [n, d_in]."""
        self._refill()
        return {point: pool[self._served :] for point, pool in self._pool.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which the same batches follow."""
        state: dict[str, Any] = {
            "pool": {p: pool[self._served :].clone() for p, pool in self._pool.items()},
            "generator": self._generator.get_state(),
            "contexts": self._inputs,
        }
        if self._pairs_within is not None:
            state["crossing"] = self._crossing[self._served :].clone()
            state["pairs"] = (self._pairs, self._crossing_pairs)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Resume from a ``state_dict``; earlier inputs are skipped without computing them.

        Raises:
            InputError: if pairs are counted now and were not then.
        """
        if self._pairs_within is not None:
            if "pairs" not in state:
                raise InputError(
                    "The checkpoint comes from a version that did not count the pairs of tokens across "
                    "documents. Train into another folder."
                )
            self._crossing = state["crossing"]
            self._pairs, self._crossing_pairs = state["pairs"]
        pool: Any = state["pool"]
        # checkpoints of a single point held its tensor alone until version 0.2
        self._pool = (
            dict(pool) if isinstance(pool, dict) else {p: pool for p in self._pool}
        )
        self._served = 0
        self._generator.set_state(state["generator"])
        self._inputs = state["contexts"]
        self._feed.skip_to(self._inputs)

    def _refill(self) -> None:
        mixing = self._mixing
        kept = int(mixing.buffer_rows * mixing.fraction)
        left = len(next(iter(self._pool.values()))) - self._served
        if left - mixing.batch_size >= kept:
            return
        parts = {point: [pool[self._served :]] for point, pool in self._pool.items()}
        crossing = [self._crossing[self._served :]]
        while left < mixing.buffer_rows:
            rows = self._next_rows()
            for point, part in parts.items():
                part.append(rows.activations[point])
            if rows.crossing is not None:
                crossing.append(rows.crossing)
            left += len(rows)
        order = None
        if mixing.fraction > 0:
            order = torch.randperm(left, generator=self._generator)
        self._crossing, self._served = torch.cat(crossing), 0
        for point, part in parts.items():
            self._pool[point] = torch.cat(part)
            # before shuffling makes another copy
            part.clear()
            if order is not None:
                self._pool[point] = self._pool[point][order]

    def _next_rows(self) -> _Rows:
        rows = self._passes.take()
        self._inputs += rows.inputs
        self.model_seconds += rows.seconds
        self._model_rows += len(rows)
        return rows

    def _run_model(self) -> _Rows:
        """Make the next pass of the model, perhaps in another thread."""
        started = time.perf_counter()
        found = self._feed.take()
        activations = {point: found.rows(point) for point in self._pool}
        crossing = None
        if self._pairs_within is not None and found.crossing is not None:
            crossing = found.crossing[found.keep]
        seconds = time.perf_counter() - started
        return _Rows(activations, len(found.inputs), seconds, crossing)


class PointBatches(Iterator[Tensor]):
    """Batches [batch_size, d_in] of one point of a stream, for SAELens' ``SAETrainer``."""

    def __init__(self, stream: ActivationStream, point: str) -> None:
        self._stream, self._point = stream, point

    def __next__(self) -> Tensor:
        return next(self._stream)[self._point]

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which the same batches follow."""
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a ``state_dict``."""
        self._stream.load_state_dict(state)

    def close(self) -> None:
        """End the second thread."""
        self._stream.close()


def _depth(mixing: Mixing, rows_per_pass: int) -> int:
    """Return how many passes of the model to compute ahead."""
    if not _has_cores_for_two():
        return 0
    refill = mixing.buffer_rows * (1 - mixing.fraction)
    return math.ceil(refill / max(rows_per_pass, 1))


def _has_cores_for_two() -> bool:
    """Return whether this process may use the cores that two computations need."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) >= _CORES_FOR_TWO
    return (os.cpu_count() or 1) >= _CORES_FOR_TWO
