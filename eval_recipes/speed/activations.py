"""Speed of sources: extraction against a bare forward pass, replay against extraction."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eval_recipes.speed.measurement import Row, SpeedConfig, interleaved, timed_rows
from saereg_plugin.activations.arrays import ArraySource
from saereg_plugin.activations.cache import open_cache, write_cache
from saereg_plugin.activations.module import ModuleSource
from saereg_plugin.activations.source import InputSource
from saereg_plugin.files import sha256
from saereg_plugin.sources.modules import load_module

SUITE = "activations"
MODEL = "dinov2-small"
_TIMES = 4
"""Rounds for each of ``SpeedConfig.repeats``: the difference that is looked for is small."""


@dataclass(frozen=True)
class Work:
    """
    Inputs of one call of each implementation.

    Attributes:
        images: images through the model, random numbers.
        size: their height and width.
        layers: layers of the model, of which the last is the point.
        rows: rows of the cache that is read from disk.
        d_in: their width.
    """

    images: int = 32
    size: int = 70
    layers: int = 10
    rows: int = 400_000
    d_in: int = 384


def activation_rows(
    config: SpeedConfig, *, model: nn.Module | None = None, work: Work = Work()
) -> Iterator[Row]:
    """
    Measure extraction, replay and reading from disk, each in turns with what it is next to.

    Args:
        config: settings of the benchmark.
        model: a ``Dinov2Model``; by default the embedded one.
        work: sizes.
    """
    if model is None:
        model = load_module(MODEL, device=config.device).module
    generator = torch.Generator().manual_seed(config.seed)
    shape = (work.images, 3, work.size, work.size)
    pixels = torch.rand(shape, generator=generator)
    point = f"encoder.layer.{work.layers - 1}"
    source = ModuleSource(model, pixels, point=point, inputs_per_pass=16)
    with tempfile.TemporaryDirectory() as folder:
        yield from _extraction_rows(config, source, model, pixels, work)
        yield from _replay_rows(config, source, Path(folder) / "model", work)
        yield from _disk_rows(config, Path(folder) / "large", work)


def _extraction_rows(
    config: SpeedConfig, source: InputSource, model: Any, pixels: Tensor, work: Work
) -> Iterator[Row]:
    """Compare a source's passes with a loop over the layers up to its point."""
    images = pixels.to(config.device)

    @torch.no_grad()
    def bare() -> None:
        for some in images.split(16):
            hidden = model.embeddings(some)
            for layer in model.encoder.layer[: work.layers]:
                hidden = layer(hidden)

    @torch.no_grad()
    def whole() -> None:
        for some in images.split(16):
            model(some)

    calls = {
        "saereg, module source": lambda: _read_all(source),
        "bare forward, truncated": bare,
        "bare forward, all layers": whole,
    }
    case = f"extraction, {work.layers} layers of {MODEL}, {work.size} px"
    yield from _timed(config, case, calls, work=work.images, unit="images/s")


def _replay_rows(
    config: SpeedConfig, source: InputSource, folder: Path, work: Work
) -> Iterator[Row]:
    """Compare the replay of a source's cache with the source."""
    index = write_cache(source, folder)
    cached = open_cache(folder, device=config.device)
    calls = {
        "saereg, replay of the cache": lambda: _read_all(cached),
        "saereg, module source": lambda: _read_all(source),
    }
    case = f"replay, {work.layers} layers of {MODEL}, {work.size} px"
    yield from _timed(config, case, calls, work=index.rows, unit="rows/s")


def _disk_rows(config: SpeedConfig, folder: Path, work: Work) -> Iterator[Row]:
    """Compare ways of reading a large cache, and the array that was cached."""
    array = _array_file(folder.with_suffix(".npy"), work, config.seed)
    source = ArraySource(array, split="all")
    index = write_cache(source, folder)
    shards = [folder / shard.file for shard in index.shards]

    def replay() -> None:
        # opened anew, since files that are mapped stay in memory
        _read_all(open_cache(folder, device=config.device))

    def from_disk() -> None:
        _forget(shards)
        replay()

    def checked() -> None:
        _forget(shards)
        for shard in shards:
            sha256(shard)
        replay()

    calls = {
        "saereg, replay from disk": from_disk,
        "saereg, replay from disk, hashes checked": checked,
        "saereg, replay from memory": replay,
        "saereg, array from memory": lambda: _read_all(source),
    }
    size = index.bytes / 1e6
    case = f"replay, {size:,.0f} MB of float32"
    yield from _timed(config, case, calls, work=size, unit="MB/s", times=1)


def _timed(
    config: SpeedConfig,
    case: str,
    calls: Mapping[str, Callable[[], object]],
    *,
    work: float,
    unit: str,
    times: int = _TIMES,
) -> Iterator[Row]:
    timed = interleaved(
        calls, repeats=times * config.repeats, device=config.device, label=SUITE
    )
    return timed_rows(SUITE, case, timed, work=work, unit=unit, seed=config.seed)


def _read_all(source: Any) -> None:
    """Read an epoch of a finite source, as the buffer of a sweep does."""
    feed, left = source.feed(), source.n_inputs
    (point,) = source.points
    while left > 0:
        found = feed.take()
        found.rows(point)
        left -= len(found.inputs)


def _array_file(path: Path, work: Work, seed: int) -> Path:
    """Write random rows to a file, piece by piece."""
    array = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(work.rows, work.d_in)
    )
    generator = np.random.default_rng(seed)
    for some in np.array_split(array, max(1, work.rows // 65_536)):
        some[:] = generator.standard_normal(some.shape, dtype=np.float32)
    array.flush()
    return path


def _forget(files: Sequence[Path]) -> None:
    """Drop files from the system's page cache, where it can be asked to."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
