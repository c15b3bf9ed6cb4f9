"""Index of a cache: its source, its shards, and the inputs' labels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import PositiveInt, TypeAdapter, ValidationError
from torch import Tensor

from saereg_plugin.activations.cache.shards import REMEDY, Shard
from saereg_plugin.activations.source import (
    ActivationSource,
    InputSource,
    digest_of,
)
from saereg_plugin.checks import checked_dataclass
from saereg_plugin.errors import InputError, suggest_path
from saereg_plugin.files import read_regular, write_json

T = TypeVar("T")

KIND = "activation cache"
"""Kind of the folder's mark."""
INDEX, INPUTS = "cache.json", "inputs.json"
VERSION = 1


@checked_dataclass
class CacheIndex:
    """Content of a cache: facts of its source, and the shards that are finished."""

    version: int
    kind: str
    """Kind of the source."""
    identity: Mapping[str, Any]
    """Identity of the source; with ``stored_as`` if its activations were rounded."""
    digest: str
    """Hash of the identity, as ``ActivationSource.digest``."""
    split: str
    stored_as: str | None
    """Data type that the activations were rounded to; None leaves them as they are."""
    points: Mapping[str, int]
    metadata: Mapping[str, Mapping[str, Any]]
    """Metadata of SAEs, by point."""
    ordered: bool
    rows_per_input: PositiveInt | None
    n_inputs: PositiveInt | None
    """Inputs of a finite source; None for text without end."""
    seed: int | None
    """Seed of the training order of a finite source."""
    shards: Sequence[Shard] = ()
    is_finished: bool = False
    """Whether everything that was asked for is written."""

    @property
    def inputs(self) -> int:
        """Inputs in all shards."""
        return sum(shard.inputs for shard in self.shards)

    @property
    def rows(self) -> int:
        """Kept rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def is_whole(self) -> bool:
        """Whether every input of a finite source is in the cache."""
        return self.inputs == self.n_inputs

    def with_shard(self, shard: Shard) -> CacheIndex:
        """Return the index after another shard."""
        return dataclasses.replace(self, shards=[*self.shards, shard])

    def write(self, folder: Path) -> None:
        """Write the index in one rename."""
        write_json(folder / INDEX, dataclasses.asdict(self))


@checked_dataclass
class CachedFacts:
    """Labels and titles of the inputs of a finite source."""

    labels: Sequence[int] | None
    class_names: Sequence[str]
    titles: Sequence[str] | None
    """None where the source has no titles of its own."""


def index_of(source: ActivationSource, split: str, stored_as: str | None) -> CacheIndex:
    """Return the index of a cache of a source before its first shard."""
    rounded = {} if stored_as is None else {"stored_as": stored_as}
    metadata = {point: source.metadata(point) | rounded for point in source.points}
    finite = isinstance(source, InputSource)
    identity = _plain({**source.identity(), **rounded})
    return CacheIndex(
        version=VERSION,
        kind=source.kind,
        identity=identity,
        digest=digest_of(identity),
        split=split,
        stored_as=stored_as,
        points=dict(source.points),
        metadata=_plain(metadata),
        ordered=source.ordered,
        rows_per_input=source.rows_per_input,
        n_inputs=source.n_inputs if finite else None,
        seed=source.seed if finite else None,
    )


def facts_of(source: InputSource) -> CachedFacts:
    """Return labels and titles of a source's inputs."""
    labels: Tensor | None = source.labels
    own = type(source).title is not InputSource.title
    return CachedFacts(
        labels=None if labels is None else labels.tolist(),
        class_names=list(source.class_names),
        titles=[source.title(n) for n in range(source.n_inputs)] if own else None,
    )


def read_index(folder: Path) -> CacheIndex:
    """
    Read the index of a cache.

    Raises:
        InputError: if the folder holds no cache, or its index is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        hint = "" if folder.is_dir() else suggest_path(folder)
        raise InputError(
            f"Folder {str(folder)!r} holds no cache of activations ({INDEX} is missing). "
            f"{hint or 'Write one with saereg-bench cache.'}"
        )
    index = _read(CacheIndex, path)
    if index.version != VERSION:
        raise InputError(
            f"File {str(path)!r} is of version {index.version}; expected {VERSION}. {REMEDY}"
        )
    if digest_of(index.identity) != index.digest:
        raise InputError(
            f"File {str(path)!r} is damaged: its digest is wrong. {REMEDY}"
        )
    return index


def read_facts(folder: Path) -> CachedFacts:
    """Read labels and titles; raise InputError if they are missing or damaged."""
    return _read(CachedFacts, folder / INPUTS)


def write_facts(folder: Path, facts: CachedFacts) -> None:
    """Write labels and titles in one rename."""
    write_json(folder / INPUTS, dataclasses.asdict(facts))


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back: tuples as lists."""
    return json.loads(json.dumps(value))


def _read(cls: type[T], path: Path) -> T:
    """Read a dataclass from JSON; raise InputError naming the file if a field is wrong."""
    try:
        return TypeAdapter(cls).validate_json(read_regular(path, remedy=REMEDY))
    except (ValidationError, InputError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"File {str(path)!r} is damaged ({reason}). {REMEDY}"
        ) from error
