"""Caches of activations: the replay is the source, bit for bit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from saereg_plugin.activations.arrays import ArraysConfig, ArraySource
from saereg_plugin.activations.cache import (
    CacheConfig,
    CachedInputs,
    CacheSource,
    open_cache,
    write_cache,
)
from saereg_plugin.activations.cache.index import INDEX
from saereg_plugin.activations.config import ModuleConfig
from saereg_plugin.activations.opening import source_at
from saereg_plugin.activations.passes import Pass
from saereg_plugin.activations.source import ActivationSource, InputSource
from saereg_plugin.errors import InputError, WriteError
from saereg_plugin.sweeps import SweepConfig
from tests.forked import started
from tests.sweeps.test_disk import file_size_limit

D_IN = 8


class LayerSource(InputSource):
    """
    The hidden layer of a small network on images of different sizes, rows by rows.

    Rows past an image's size are padding; ``broken`` kills the process in that pass.
    """

    kind: ClassVar[str] = "module"

    def __init__(
        self, inputs: int = 30, *, per_pass: int = 4, broken: int = -1
    ) -> None:
        generator = torch.Generator().manual_seed(1)
        torch.manual_seed(0)
        self._layer = nn.Linear(5, D_IN)
        self._sizes = torch.randint(1, 7, (inputs,), generator=generator)
        self._images = torch.randn(inputs, 6, 5, generator=generator)
        self._per_pass = per_pass
        self._broken = broken
        self.n_inputs = inputs
        self.points = {"hidden": D_IN, "relu": D_IN}
        self.device = torch.device("cpu")
        self.labels = torch.arange(inputs) % 3
        self.class_names = ("a", "b", "c")

    def passes(self, numbers: Tensor) -> Iterator[Pass]:
        for count, some in enumerate(numbers.split(self._per_pass)):
            if count == self._broken:
                os.kill(os.getpid(), signal.SIGKILL)
            longest = int(self._sizes[some].max())
            with torch.no_grad():
                hidden = self._layer(self._images[some, :longest])
            keep = torch.arange(longest) < self._sizes[some, None]
            yield Pass({"hidden": hidden, "relu": hidden.relu()}, keep, some)

    def title(self, number: int) -> str:
        return f"image-{number}.png"

    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "inputs": self.n_inputs}

    def metadata(self, point: str) -> dict[str, Any]:
        return {"model_name": "small", "hook_name": point}


class Endless(ActivationSource):
    """Activations without end: pass n is drawn from seed n; some rows are special tokens."""

    kind: ClassVar[str] = "language_model"
    ordered = True

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        self.points = {"hook": D_IN}
        self.device = torch.device("cpu")
        self._dtype = dtype

    def feed(self) -> EndlessFeed:
        return EndlessFeed(self._dtype)

    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "dtype": str(self._dtype)}

    def metadata(self, point: str) -> dict[str, Any]:
        return {"model_name": "endless", "hook_name": point}


class EndlessFeed:
    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._position = 0

    def take(self) -> Pass:
        generator = torch.Generator().manual_seed(self._position)
        drawn = torch.randn(2, 5, D_IN, generator=generator).to(self._dtype)
        keep = torch.rand(2, 5, generator=generator) > 0.2
        crossing = torch.rand(2, 5, generator=generator) > 0.8
        inputs = torch.arange(self._position, self._position + 2)
        self._position += 2
        return Pass({"hook": drawn}, keep, inputs, crossing)

    def skip_to(self, position: int) -> None:
        self._position = position


def assert_same(found: Pass, expected: Pass) -> None:
    """Equal bit for bit, rows that are not kept included unless most are."""
    assert torch.equal(found.keep, expected.keep)
    assert torch.equal(found.inputs, expected.inputs)
    assert found.activations.keys() == expected.activations.keys()
    for point, values in expected.activations.items():
        replayed = found.activations[point]
        assert replayed.dtype == values.dtype
        whole = expected.keep.float().mean() >= 0.5
        keep = torch.ones_like(expected.keep) if whole else expected.keep
        assert torch.equal(replayed[keep], values[keep])
        assert torch.equal(found.rows(point), expected.rows(point))
    if expected.crossing is None:
        assert found.crossing is None
    else:
        assert found.crossing is not None
        assert torch.equal(found.crossing, expected.crossing)


def assert_replays(folder: Path, source: ActivationSource, passes: int) -> None:
    feed, replay = source.feed(), open_cache(folder).feed()
    for _ in range(passes):
        assert_same(replay.take(), feed.take())


def test_finite_source_is_replayed_epoch_after_epoch(tmp_path: Path) -> None:
    source = LayerSource()
    index = write_cache(source, tmp_path / "cache", shard_bytes=2000)
    assert len(index.shards) > 3
    assert index.inputs == 30
    assert_replays(tmp_path / "cache", source, passes=20)
    cached = open_cache(tmp_path / "cache", "train")
    assert isinstance(cached, CachedInputs)
    assert cached.rows_available is None
    assert cached.digest() == source.digest()
    assert cached.metadata("relu") == source.metadata("relu")
    assert cached.points == source.points
    assert torch.equal(cached.order(), source.order())
    assert cached.labels is not None and source.labels is not None
    assert torch.equal(cached.labels, source.labels)
    assert tuple(cached.class_names) == source.class_names
    assert cached.title(7) == "image-7.png"


def test_endless_source_is_replayed_as_far_as_it_was_written(tmp_path: Path) -> None:
    index = write_cache(Endless(), tmp_path / "cache", rows=100, shard_bytes=700)
    cached = open_cache(tmp_path / "cache")
    assert isinstance(cached, CacheSource)
    assert cached.ordered
    assert cached.rows_available == index.rows >= 100
    passes = sum(shard.passes for shard in index.shards)
    assert_replays(tmp_path / "cache", Endless(), passes)
    feed = cached.feed()
    feed.skip_to(2 * passes)
    with pytest.raises(InputError, match=f"holds {index.rows:,} rows"):
        feed.take()


@pytest.mark.parametrize("position", [4, 10, 12, 28, 30, 34, 45])
def test_skipping_goes_on_where_the_source_does(tmp_path: Path, position: int) -> None:
    source = LayerSource()
    write_cache(source, tmp_path / "cache", shard_bytes=1500)
    feed, replay = source.feed(), open_cache(tmp_path / "cache").feed()
    feed.skip_to(position)
    replay.skip_to(position)
    wanted, found = (
        torch.cat([one.take().rows("relu") for _ in range(9)]) for one in (feed, replay)
    )
    shortest = min(len(wanted), len(found))
    assert torch.equal(wanted[:shortest], found[:shortest])


def test_inputs_are_read_by_number(tmp_path: Path) -> None:
    source = LayerSource()
    write_cache(source, tmp_path / "cache", shard_bytes=1500)
    cached = open_cache(tmp_path / "cache")
    assert isinstance(cached, CachedInputs)
    numbers = torch.tensor([29, 0, 3, 4, 5, 17, 3])
    found = list(cached.passes(numbers))
    expected = list(source.passes(numbers))
    assert torch.equal(torch.cat([one.inputs for one in found]), numbers)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine.rows("hidden"), theirs.rows("hidden"), atol=1e-6)
        assert mine.keep.sum(1).tolist() == theirs.keep.sum(1).tolist()


def test_one_of_several_points_is_read(tmp_path: Path) -> None:
    write_cache(LayerSource(), tmp_path / "cache")
    cached = open_cache(tmp_path / "cache", point="relu")
    assert cached.points == {"relu": D_IN}
    assert set(cached.feed().take().activations) == {"relu"}
    assert open_cache(tmp_path / "cache", point="re*").points == cached.points
    with pytest.raises(InputError, match="No point 'rel' in cache .*mean 'relu'"):
        open_cache(tmp_path / "cache", point="rel")


def test_pass_of_padding_is_stored_without_it(tmp_path: Path) -> None:
    class Padded(Endless):
        def feed(self) -> Any:
            class Feed(EndlessFeed):
                def take(self) -> Pass:
                    found = super().take()
                    found.keep[:, 1:] = False
                    return found

            return Feed(torch.float32)

    write_cache(Padded(), tmp_path / "cache", inputs=8)
    assert_replays(tmp_path / "cache", Padded(), passes=4)
    (shard,) = open_cache(tmp_path / "cache").index.shards
    stored = load_file(tmp_path / "cache" / shard.file)
    # of two inputs with five rows each, one or two rows are kept
    assert all(len(v) <= 2 for n, v in stored.items() if "points" in n)


def test_rounding_is_said_in_the_identity(tmp_path: Path) -> None:
    source = ArraySource(torch.randn(40, D_IN))
    write_cache(source, tmp_path / "cache", dtype="bfloat16")
    cached = open_cache(tmp_path / "cache")
    rounded = cached.feed().take().activations["activations"]
    assert rounded.dtype == torch.bfloat16
    exact = source.feed().take().activations["activations"]
    assert torch.equal(rounded, exact.bfloat16())
    assert cached.digest() != source.digest()
    assert cached.identity() == {**source.identity(), "stored_as": "bfloat16"}
    assert cached.metadata("activations")["stored_as"] == "bfloat16"


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(1, 40),
    rows=st.integers(1, 5),
    d_in=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    per_pass=st.integers(1, 50),
    shard_bytes=st.integers(1, 4000),
    first=st.integers(0, 40),
)
def test_caches_of_any_shape_replay_after_any_interruption(
    tmp_path_factory: pytest.TempPathFactory,
    inputs: int,
    rows: int,
    d_in: int,
    dtype: torch.dtype,
    per_pass: int,
    shard_bytes: int,
    first: int,
) -> None:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    array = torch.randn(inputs, rows, d_in).to(dtype)
    source = ArraySource(array, split="all", inputs_per_pass=per_pass)
    if first:
        write_cache(source, folder, inputs=first, shard_bytes=shard_bytes)
    index = write_cache(source, folder, shard_bytes=shard_bytes)
    assert index.is_whole
    assert_replays(folder, source, passes=2 * -(-inputs // per_pass) + 1)


def test_killed_writer_resumes_with_its_finished_shards(tmp_path: Path) -> None:
    folder, whole = tmp_path / "cache", tmp_path / "whole"
    process = started(tmp_path / "log", write_cache, LayerSource(broken=5), folder)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    # in a single shard nothing is finished; in small ones the first are
    with pytest.raises(InputError, match="no finished shard"):
        open_cache(folder)
    process = started(tmp_path / "log", _write_small, LayerSource(broken=5), folder)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = open_cache(folder).index
    assert 0 < before.inputs <= 20
    assert_replays(folder, LayerSource(), before.inputs // 4)
    (folder / ".shard-00009.safetensors.0a0b0c0d.tmp").touch()
    after = write_cache(LayerSource(), folder, shard_bytes=1500)
    assert after.is_whole
    assert list(after.shards)[: len(before.shards)] == list(before.shards)
    assert after == write_cache(LayerSource(), whole, shard_bytes=1500)
    assert_replays(folder, LayerSource(), passes=20)


def _write_small(source: InputSource, folder: Path) -> None:
    write_cache(source, folder, shard_bytes=1500)


def test_interrupt_keeps_what_was_read(tmp_path: Path) -> None:
    class Interrupted(LayerSource):
        def passes(self, numbers: Tensor) -> Iterator[Pass]:
            for count, found in enumerate(super().passes(numbers)):
                if count == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                yield found

    index = write_cache(Interrupted(), tmp_path / "cache")
    assert index.inputs == 12
    assert not index.is_whole and not index.is_finished
    resumed = write_cache(LayerSource(), tmp_path / "cache")
    assert resumed.is_whole and resumed.is_finished
    assert_replays(tmp_path / "cache", LayerSource(), passes=20)


def test_finished_cache_grows_and_is_not_written_twice(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    first = write_cache(Endless(), folder, rows=50)
    state = (folder / first.shards[0].file).stat().st_mtime_ns
    assert write_cache(Endless(), folder, rows=20) == first
    longer = write_cache(Endless(), folder, rows=120)
    assert longer.rows >= 120
    assert (folder / first.shards[0].file).stat().st_mtime_ns == state
    assert_replays(folder, Endless(), passes=longer.inputs // 2)


def test_full_disk_keeps_finished_shards(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    small = write_cache(Endless(), folder, rows=50, shard_bytes=700)
    with (
        file_size_limit(20_000),
        pytest.raises(
            WriteError, match="cannot be written .*Free space.* shards are kept"
        ),
    ):
        write_cache(Endless(), folder, rows=5000, shard_bytes=40_000)
    assert open_cache(folder).index.shards == small.shards
    assert {path.name for path in folder.glob("*shard*")} == {
        shard.file for shard in small.shards
    }
    longer = write_cache(Endless(), folder, rows=500)
    assert_replays(folder, Endless(), passes=longer.inputs // 2)


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    index = write_cache(LayerSource(), folder, shard_bytes=1500)
    path = folder / index.shards[1].file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    feed = open_cache(folder).feed()
    feed.take()
    with pytest.raises(InputError, match=f"{path.name}' was changed after"):
        for _ in range(8):
            feed.take()
    os.truncate(path, len(content) - 1)
    with pytest.raises(InputError, match=f"{path.name}' has .* bytes; expected"):
        open_cache(folder)
    with pytest.raises(InputError, match=f"{path.name}' has .* bytes; expected"):
        write_cache(LayerSource(), folder)
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name}' is missing"):
        open_cache(folder)


def test_damaged_index_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    write_cache(LayerSource(), folder)
    path = folder / INDEX
    values = json.loads(path.read_text())
    for changes, message in (
        ({"points": "relu"}, "is damaged"),
        ({"identity": {"kind": "module", "inputs": 31}}, "its digest is wrong"),
        ({"version": 2}, "of version 2"),
    ):
        path.write_text(json.dumps({**values, **changes}))
        with pytest.raises(InputError, match=message):
            open_cache(folder)
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match="is damaged"):
        write_cache(LayerSource(), folder)


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    write_cache(LayerSource(), folder)
    with pytest.raises(InputError, match="a cache of another source: identity is"):
        write_cache(LayerSource(31), folder)
    with pytest.raises(InputError, match="split is train, now heldout"):
        write_cache(LayerSource(), folder, split="heldout")
    with pytest.raises(InputError, match="stored_as is None, now bfloat16"):
        write_cache(LayerSource(), folder, dtype="bfloat16")
    with pytest.raises(InputError, match="holds the split 'train'; expected 'heldout'"):
        open_cache(folder, "heldout")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(InputError, match="files that this package did not write"):
        write_cache(LayerSource(), tmp_path / "mine")
    with pytest.raises(InputError, match="holds no cache of activations"):
        open_cache(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_cache_of_all_inputs_is_neither_trained_on_nor_held_out(tmp_path: Path) -> None:
    write_cache(LayerSource(), tmp_path / "cache", split="all")
    assert open_cache(tmp_path / "cache", "all").digest() == LayerSource().digest()
    for split in ("train", "heldout"):
        with pytest.raises(InputError, match=f"split 'all'; expected '{split}'"):
            open_cache(tmp_path / "cache", split)


def test_paths_begin_at_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_cache(LayerSource(), tmp_path / "cache")
    absolute = str(tmp_path / "cache")
    assert CacheConfig(path="~/cache").path == absolute
    assert ArraysConfig(path="~/cache").path == absolute
    module = ModuleConfig(model="~/cache", data=["~/cache", "emoji"], point="x")
    assert (module.model, list(module.data)) == (absolute, [absolute, "emoji"])
    assert SweepConfig(sae={}, model="~/cache").model == absolute
    assert source_at("~/cache") == {"kind": "cache", "path": absolute}


def test_a_kind_without_its_path_asks_for_the_path() -> None:
    with pytest.raises(InputError, match="Of the kind 'cache' give the path itself"):
        source_at("cache")


def test_text_without_end_needs_a_limit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no end"):
        write_cache(Endless(), tmp_path / "cache")
    with pytest.raises(InputError, match="rows=0; expected at least 1"):
        write_cache(Endless(), tmp_path / "cache", rows=0)
    assert not (tmp_path / "cache").exists()


def test_too_small_disk_is_refused_after_the_first_pass(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The cache needs about .* GiB free"):
        write_cache(Endless(), tmp_path / "cache", rows=10**15)
