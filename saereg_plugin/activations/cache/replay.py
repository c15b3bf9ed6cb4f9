"""Replay of a cache as a source of activations."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor
from torch.nn.functional import pad

from saereg_plugin.activations.cache.index import (
    CacheIndex,
    read_facts,
    read_index,
)
from saereg_plugin.activations.cache.shards import OpenShard, open_shard, require_size
from saereg_plugin.activations.config import SourceFacts
from saereg_plugin.activations.extraction import points_matching
from saereg_plugin.activations.passes import Feed, Pass
from saereg_plugin.activations.source import ActivationSource, InputSource
from saereg_plugin.checks import absolute_path, as_list, checked_dataclass
from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs import Split

_OPEN_SHARDS = 8


@checked_dataclass
class CacheConfig:
    """A cache that ``saereg-bench cache`` wrote."""

    kind: Literal["cache"] = "cache"
    path: Annotated[str, AfterValidator(absolute_path)]
    """Folder of the cache."""
    point: str | Sequence[str] | None = None
    """Points to read, or patterns; by default all."""


class CachedPasses:
    """
    Passes of a cache, in their order or by the number of an input.

    Args:
        folder: the cache.
        index: its index.
        points: the points to read.
        device: where activations are returned.
    """

    def __init__(
        self,
        folder: Path,
        index: CacheIndex,
        points: Sequence[str],
        device: torch.device,
    ) -> None:
        self._folder, self._index = folder, index
        self._points, self._device = points, device
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._places: Tensor | None = None

    def following(self, position: int) -> Iterator[Pass]:
        """Yield the passes after the first ``position`` inputs, to the end of the cache."""
        for number, shard in enumerate(self._index.shards):
            if position >= shard.inputs:
                position -= shard.inputs
                continue
            opened = self._shard(number)
            for one in range(shard.passes):
                size = len(opened.inputs(one))
                if position < size:
                    chosen = slice(position, None)
                    yield self._placed(opened.read(one, self._points, chosen))
                position = max(0, position - size)

    def order(self) -> Tensor:
        """Return the numbers of all inputs in the order of the cache, int64 (inputs,)."""
        return self._table()[0]

    def gathered(self, numbers: Tensor) -> Pass:
        """Return a pass over inputs by number; rows that an input lacks are not kept."""
        _, shards, passes, offsets, where = self._table()
        found = where[numbers]
        keys = torch.stack([shards[found], passes[found]], 1)
        lengths = torch.unique_consecutive(keys, dim=0, return_counts=True)[1].tolist()
        pieces = [
            self._shard(int(shards[some[0]])).read(
                int(passes[some[0]]), self._points, offsets[some]
            )
            for some in found.split(lengths)
        ]
        return self._placed(_joined(pieces))

    def _shard(self, number: int) -> OpenShard:
        """Return a shard, opened at its first use; a few stay open."""
        if number not in self._open:
            self._open[number] = open_shard(self._folder, self._index.shards[number])
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        return self._open[number]

    def _table(self) -> Tensor:
        """
        Return number, shard, pass and place in it of every input, int64 (5, inputs).

        The last row is where in the order an input of a number is.
        """
        if self._places is None:
            found: list[Tensor] = []
            for number, shard in enumerate(self._index.shards):
                opened = self._shard(number)
                for one in range(shard.passes):
                    inputs = opened.inputs(one)
                    place = torch.arange(len(inputs))
                    constants = [torch.full_like(inputs, n) for n in (number, one)]
                    found.append(torch.stack([inputs, *constants, place]))
            places = torch.cat(found, 1)
            self._places = torch.cat([places, places[:1].argsort()])
        return self._places

    def _placed(self, found: Pass) -> Pass:
        """Return a pass on the device."""
        device = self._device
        crossing = found.crossing
        return Pass(
            {point: values.to(device) for point, values in found.activations.items()},
            found.keep.to(device),
            found.inputs,
            None if crossing is None else crossing.to(device),
        )


class CacheFeed:
    """
    Passes of a cache in the order of training.

    Args:
        passes: the passes of the cache.
        index: its index.
    """

    def __init__(self, passes: CachedPasses, index: CacheIndex) -> None:
        self._passes, self._index = passes, index
        self._following = passes.following(0)

    def take(self) -> Pass:
        """
        Return the next pass; after the last input of a finite source, the first again.

        Raises:
            InputError: at the end of a cache that holds a part of its source.
        """
        found = next(self._following, None)
        if found is None:
            if not self._index.is_whole:
                raise InputError(_too_few(self._index))
            self._following = self._passes.following(0)
            found = next(self._following)
        return found

    def skip_to(self, position: int) -> None:
        """Go on after the first ``position`` inputs, counted over all epochs."""
        if self._index.is_whole:
            position %= self._index.inputs
        if position > self._index.inputs:
            raise InputError(_too_few(self._index))
        self._following = self._passes.following(position)


class _Cached(ActivationSource):
    """Base of the replays of finite and of endless sources."""

    kind: ClassVar[str] = "cache"

    def __init__(
        self,
        folder: Path,
        index: CacheIndex,
        points: Sequence[str],
        device: str | torch.device,
    ) -> None:
        self.index = index
        self.points = {point: index.points[point] for point in points}
        self.device = torch.device(device)
        self.ordered = index.ordered
        self.rows_per_input = index.rows_per_input
        first = index.shards[0]
        self.rows_per_pass = -(-first.rows // first.passes)
        self.rows_available = None if index.is_whole else index.rows
        self._passes = CachedPasses(folder, index, points, self.device)

    def feed(self) -> Feed:
        """Return the passes that the source's feed gave when the cache was written."""
        return CacheFeed(self._passes, self.index)

    def identity(self) -> dict[str, Any]:
        """Return the identity of the source that was cached."""
        return dict(self.index.identity)

    def metadata(self, point: str) -> dict[str, Any]:
        """Return the metadata of the source that was cached."""
        return dict(self.index.metadata[point])


class CacheSource(_Cached):
    """Replay of a part of a source, such as some tokens of a text; see ``open_cache``."""


class CachedInputs(_Cached, InputSource):
    """Replay of all inputs of a finite source; see ``open_cache``."""

    def __init__(
        self,
        folder: Path,
        index: CacheIndex,
        points: Sequence[str],
        device: str | torch.device,
    ) -> None:
        super().__init__(folder, index, points, device)
        facts = read_facts(folder)
        self.n_inputs = index.inputs
        self.labels = None if facts.labels is None else torch.tensor(facts.labels)
        self.class_names = tuple(facts.class_names)
        self.seed = index.seed or 0
        self._titles = facts.titles
        shard = index.shards[0]
        self.inputs_per_pass = -(-shard.inputs // shard.passes)

    def passes(self, numbers: Tensor) -> Iterator[Pass]:
        """Yield passes over these inputs (int64), in this order."""
        for some in numbers.split(self.inputs_per_pass):
            yield self._passes.gathered(some)

    def title(self, number: int) -> str:
        """Return a short name of an input, as the source gave it."""
        return super().title(number) if self._titles is None else self._titles[number]

    def order(self) -> Tensor:
        """Return the order in which the source's inputs were written."""
        return self._passes.order()


def open_cache(
    path: Path | str,
    split: Split | None = None,
    *,
    point: str | Sequence[str] | None = None,
    device: str | torch.device = "cpu",
) -> CacheSource | CachedInputs:
    """
    Open a cache as the source that was written to it.

    Args:
        path: folder of the cache.
        split: refuse a cache of another split; "train" and "heldout" are no parts of a cache
            of "all".
        point: points to read, or patterns; by default all.
        device: where activations are returned.

    Returns:
        ``CachedInputs`` if the cache holds every input of a finite source.

    Raises:
        InputError: if there is no cache, a shard is missing or cut short, or for an unknown
            point.
    """
    folder = Path(path)
    index = _checked_index(folder, split)
    chosen = _points(index, point, folder)
    make = CachedInputs if index.is_whole else CacheSource
    return make(folder, index, chosen, device)


def describe_cache(config: CacheConfig, split: Split = "train") -> SourceFacts:
    """
    Return the facts of a cache, of which only the index is read.

    Raises:
        InputError: as ``open_cache``.
    """
    folder = Path(config.path)
    index = _checked_index(folder, split)
    points = _points(index, config.point, folder)
    named = index.metadata[points[0]]
    return SourceFacts(
        model=str(named.get("model_name")),
        data=str(named.get("dataset_path")),
        points={point: index.points[point] for point in points},
        n_inputs=index.n_inputs if index.is_whole else None,
        rows_per_input=index.rows_per_input,
        ordered=index.ordered,
        most_rows=index.rows,
        rows_available=None if index.is_whole else index.rows,
        cached_kind=index.kind,
    )


def _checked_index(folder: Path, split: Split | None) -> CacheIndex:
    """Read an index; refuse a cache without shards, a damaged one, or one of another split."""
    index = read_index(folder)
    if not index.shards:
        raise InputError(
            f"Cache {str(folder)!r} has no finished shard; expected one. Run saereg-bench cache again."
        )
    for shard in index.shards:
        require_size(folder, shard)
    if split not in (None, index.split):
        raise InputError(
            f"Cache {str(folder)!r} holds the split {index.split!r}; expected {split!r}. Write "
            "another cache with that split."
        )
    return index


def _points(
    index: CacheIndex, point: str | Sequence[str] | None, folder: Path
) -> list[str]:
    if not point:
        return list(index.points)
    where = f"in cache {str(folder)!r}"
    return points_matching(as_list(point), index.points, where=where)


def _joined(pieces: Sequence[Pass]) -> Pass:
    """Join passes; shorter inputs get rows that are not kept."""
    rows = max(piece.keep.shape[1] for piece in pieces)
    crossings = [piece.crossing for piece in pieces]
    return Pass(
        {
            point: torch.cat(
                [_padded(piece.activations[point], rows) for piece in pieces]
            )
            for point in pieces[0].activations
        },
        torch.cat([_padded(piece.keep, rows) for piece in pieces]),
        torch.cat([piece.inputs for piece in pieces]),
        None
        if any(crossing is None for crossing in crossings)
        else torch.cat([_padded(c, rows) for c in crossings if c is not None]),
    )


def _padded(values: Tensor, rows: int) -> Tensor:
    """Return (inputs, rows, ...) with as many rows as asked for, the new ones 0."""
    missing = rows - values.shape[1]
    if missing == 0:
        return values
    return pad(values, (*[0, 0] * (values.dim() - 2), 0, missing))


def _too_few(index: CacheIndex) -> str:
    return (
        f"The cache holds {index.rows:,} rows ({index.inputs:,} inputs) of its source, which has more; "
        "expected no more to be read. Train on fewer rows, or let saereg-bench cache add the "
        "missing ones."
    )
