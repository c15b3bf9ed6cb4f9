"""Writing of caches, resumable after any interruption."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from saereg_plugin.activations.cache.index import (
    INDEX,
    INPUTS,
    KIND,
    CacheIndex,
    facts_of,
    index_of,
    read_index,
    write_facts,
)
from saereg_plugin.activations.cache.shards import (
    require_size,
    size_of,
    stored,
    write_shard,
)
from saereg_plugin.activations.passes import Pass
from saereg_plugin.activations.source import ActivationSource, InputSource
from saereg_plugin.errors import InputError
from saereg_plugin.files import writing_into
from saereg_plugin.machine import free_disk_bytes, gib, torch_dtype
from saereg_plugin.owned_folder import OwnedFolder, open_owned, require_owned
from saereg_plugin.process import StopFlag, stop_on_signal

SHARD_BYTES = 1 << 28
_LOCK = ".lock"
_REMEDY = "Free space and run the same command again; finished shards are kept."


@dataclass(frozen=True)
class Target:
    """
    How much to write; the first limit that is reached ends the cache.

    Attributes:
        rows: kept rows, or None.
        inputs: inputs, or None.
    """

    rows: int | None
    inputs: int | None

    def done(self, rows: int, inputs: int) -> float:
        """Return the share that is done, 1 or more at the end."""
        shares = ((rows, self.rows), (inputs, self.inputs))
        return max(done / limit for done, limit in shares if limit is not None)

    def counted(self, rows: int, inputs: int) -> int:
        """Return what the progress bar counts: rows if they are limited, else inputs."""
        return inputs if self.rows is None else rows

    def progress_bar(self, rows: int, inputs: int) -> tqdm[NoReturn]:
        """Return a progress bar that begins at what is done."""
        return tqdm(
            total=self.inputs if self.rows is None else self.rows,
            initial=self.counted(rows, inputs),
            desc="Caching",
            unit=" inputs" if self.rows is None else " rows",
            unit_scale=True,
        )


@dataclass
class _Writer:
    """Passes that wait for their shard, and the index of the finished shards."""

    owned: OwnedFolder
    index: CacheIndex
    dtype: torch.dtype | None
    shard_bytes: int
    passes: list[Mapping[str, Tensor]] = field(default_factory=list)
    rows: int = 0
    inputs: int = 0
    bytes: int = 0

    @property
    def done(self) -> tuple[int, int]:
        """Kept rows and inputs so far, those in memory included."""
        return self.index.rows + self.rows, self.index.inputs + self.inputs

    def add(self, found: Pass) -> int:
        """Take a pass, write a shard when enough have come, and return the pass's bytes."""
        tensors = stored(found, self.dtype)
        self.passes.append(tensors)
        self.rows += int(tensors["keep"].sum())
        self.inputs += len(tensors["inputs"])
        size = size_of(tensors)
        self.bytes += size
        if self.bytes >= self.shard_bytes:
            self.flush()
        return size

    def flush(self) -> None:
        """Write the waiting passes as a shard, then the index."""
        if not self.passes:
            return
        name = f"shard-{len(self.index.shards):05d}.safetensors"
        with writing_into(self.owned.path, remedy=_REMEDY):
            self.owned.claim([name])
            shard = write_shard(self.owned.path / name, self.passes)
            self.index = self.index.with_shard(shard)
            self.index.write(self.owned.path)
        self.passes, self.rows, self.inputs, self.bytes = [], 0, 0, 0

    def finish(self) -> None:
        """Note in the index that everything that was asked for is written."""
        self.index = dataclasses.replace(self.index, is_finished=True)
        with writing_into(self.owned.path, remedy=_REMEDY):
            self.index.write(self.owned.path)


def write_cache(
    source: ActivationSource,
    folder: Path | str,
    *,
    rows: int | None = None,
    inputs: int | None = None,
    split: str = "train",
    dtype: str | torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> CacheIndex:
    """
    Write a source's passes to a folder, in the order of training.

    The same call resumes after the last finished shard, and adds to a finished cache if it
    asks for more. Ctrl-C ends it after the current pass, which is kept.

    Args:
        source: what to write; it must not have been read from before.
        folder: new, empty, or a cache of this source.
        rows: kept rows to write, rounded up to a pass.
        inputs: inputs to write, rounded up to a pass; by default all inputs of a finite
            source. Text without end needs ``rows`` or ``inputs``.
        split: the split that the source was opened with, which the cache names.
        dtype: data type to round activations to, such as "bfloat16"; the identity of the
            cache then says so. By default they are stored as they are.
        shard_bytes: size of a shard, about.

    Returns:
        the index of what is written; after Ctrl-C it is not finished.

    Raises:
        InputError: for a folder with other files or of another source, a missing limit, or
            a disk that is too small.
        WriteError: if a file cannot be written; finished shards are kept.
    """
    folder = Path(folder)
    target = _target(source, rows, inputs)
    numbers = None if dtype is None else torch_dtype(dtype)
    name = None if numbers is None else str(numbers).removeprefix("torch.")
    require_owned(folder, KIND)
    planned = index_of(source, split, name)
    with _only_process(open_owned(folder, KIND)) as owned, stop_on_signal() as stop:
        index = _resumed(owned, planned)
        writer = _Writer(owned, index, numbers, shard_bytes)
        _prepare(writer, source)
        _write_passes(writer, source, target, stop)
        if target.done(*writer.done) >= 1:
            writer.finish()
        return writer.index


def _target(source: ActivationSource, rows: int | None, inputs: int | None) -> Target:
    """Return how much to write; all inputs of a finite source are the most."""
    for name, value in (("rows", rows), ("inputs", inputs)):
        if value is not None and value < 1:
            raise InputError(f"{name}={value}; expected at least 1, or leave it out.")
    if isinstance(source, InputSource):
        return Target(rows, min(inputs or source.n_inputs, source.n_inputs))
    if rows is None and inputs is None:
        raise InputError(
            "The source has no end, so a cache of all of it cannot be written; expected rows (tokens) "
            "or inputs. Give the rows that you will train on."
        )
    return Target(rows, inputs)


def _resumed(owned: OwnedFolder, planned: CacheIndex) -> CacheIndex:
    """
    Return the index that an earlier call left, or the planned one.

    Raises:
        InputError: if the folder is a cache of something else, naming the difference, or a
            finished shard is missing or cut short.
    """
    owned.recover()
    if not (owned.path / INDEX).is_file():
        return planned
    found = read_index(owned.path)
    for name in ("split", "stored_as", "seed", "kind", "points", "identity"):
        before, now = getattr(found, name), getattr(planned, name)
        if before != now:
            raise InputError(
                f"Folder {str(owned.path)!r} is a cache of another source: {name} is "
                f"{_short(before)}, now {_short(now)}. Choose another folder."
            )
    for shard in found.shards:
        require_size(owned.path, shard)
    return dataclasses.replace(planned, shards=found.shards)


def _prepare(writer: _Writer, source: ActivationSource) -> None:
    """Write the index and the inputs' labels before the first pass."""
    with writing_into(writer.owned.path, remedy=_REMEDY):
        writer.owned.claim([INDEX, INPUTS])
        if isinstance(source, InputSource):
            write_facts(writer.owned.path, facts_of(source))
        writer.index.write(writer.owned.path)


def _write_passes(
    writer: _Writer, source: ActivationSource, target: Target, stop: StopFlag
) -> None:
    """Write passes until the target is reached or a stop is requested."""
    if target.done(*writer.done) >= 1:
        return
    feed = source.feed()
    if writer.index.inputs:
        feed.skip_to(writer.index.inputs)
    begun = target.done(*writer.done)
    with target.progress_bar(*writer.done) as progress:
        while (before := target.done(*writer.done)) < 1 and not stop.requested:
            size = writer.add(feed.take())
            after = target.done(*writer.done)
            progress.update(target.counted(*writer.done) - progress.n)
            if before == begun:
                _require_space(writer.owned.path, size * (1 - after) / (after - before))
    writer.flush()


def _require_space(folder: Path, needed: float) -> None:
    """Refuse a disk on which the rest of the cache does not fit."""
    free = free_disk_bytes(folder)
    if needed > free:
        raise InputError(
            f"The cache needs about {gib(int(needed))}; the disk of {str(folder)!r} has "
            f"{gib(free)} free. Write fewer rows, or choose another disk."
        )


@contextmanager
def _only_process(owned: OwnedFolder) -> Iterator[OwnedFolder]:
    """Refuse a folder that another process writes."""
    owned.claim([_LOCK])
    lock = FileLock(owned.path / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"Another process writes the cache {str(owned.path)!r}; wait for it, or choose another folder."
        ) from error
    try:
        yield owned
    finally:
        lock.release()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
