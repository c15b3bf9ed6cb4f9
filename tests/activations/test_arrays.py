"""Arrays in memory and in files as a source of activations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from saereg_plugin.activations.arrays import (
    ArraysConfig,
    ArraySource,
    describe_arrays,
    open_arrays,
)
from saereg_plugin.activations.arrays.files import LABELS
from saereg_plugin.activations.opening import open_source
from saereg_plugin.errors import InputError

D_IN = 6


def values(inputs: int, rows: int | None = None, seed: int = 0) -> Tensor:
    shape = (inputs, D_IN) if rows is None else (inputs, rows, D_IN)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def all_rows(source: ArraySource, point: str = "activations") -> Tensor:
    passes = source.passes(torch.arange(source.n_inputs))
    return torch.cat([found.rows(point) for found in passes])


def save(path: Path, array: Tensor) -> Path:
    if path.suffix == ".npy":
        np.save(path, array.numpy())
    elif path.suffix == ".pt":
        torch.save(array, path)
    else:
        save_file({"activations": array}, path)
    return path


@pytest.mark.parametrize("ending", [".npy", ".pt", ".safetensors"])
@pytest.mark.parametrize("rows", [None, 3])
def test_file_and_array_give_the_same_rows(
    tmp_path: Path, ending: str, rows: int | None
) -> None:
    array = values(50, rows)
    source = ArraySource(save(tmp_path / f"a{ending}", array), split="all")
    assert source.points == {"activations": D_IN}
    assert source.rows_per_input == (rows or 1)
    assert torch.equal(all_rows(source), array.reshape(-1, D_IN))
    assert torch.equal(
        all_rows(ArraySource(array.numpy(), split="all")), all_rows(source)
    )


def test_shards_of_all_kinds_follow_one_another_by_number(tmp_path: Path) -> None:
    array = values(44)
    for name, some in zip(
        ["shard-10.npy", "shard-2.safetensors", "shard-9.pt"],
        [array[30:], array[:10], array[10:30]],
        strict=True,
    ):
        save(tmp_path / name, some.contiguous())
    np.save(tmp_path / LABELS, np.arange(44) % 3)
    source = ArraySource(tmp_path, split="all", inputs_per_pass=7)
    assert torch.equal(all_rows(source), array)
    chosen = torch.tensor([43, 0, 12, 11, 31])
    (found,) = source.passes(chosen)
    assert torch.equal(found.rows("activations"), array[chosen])
    assert torch.equal(found.inputs, chosen)
    assert source.labels is not None and source.labels.tolist()[:4] == [0, 1, 2, 0]


def test_points_are_named_chosen_and_read_together(tmp_path: Path) -> None:
    early, late = values(20), torch.randn(20, 3)
    path = tmp_path / "a.safetensors"
    save_file({"early": early, "late": late}, path)
    both = ArraySource(path, split="all")
    assert both.points == {"early": D_IN, "late": 3}
    assert torch.equal(all_rows(both, "late"), late)
    assert ArraySource(path, point="late").points == {"late": 3}
    named = {"early": early, "late": late}
    assert ArraySource(named).points == both.points
    for given_array in (path, named):
        assert ArraySource(given_array, point=["l*"]).points == {"late": 3}
        with pytest.raises(InputError, match="No point 'lat' in .*Did you mean 'late'"):
            ArraySource(given_array, point="lat")
    assert ArraySource(early, point="layer.3").points == {"layer.3": D_IN}
    save_file({"early": early}, path)
    with pytest.raises(InputError, match="No point 'layer.3' in file .*a.safetensors'"):
        ArraySource(path, point="layer.3")


def test_last_inputs_are_held_out_with_their_labels() -> None:
    array, labels = values(40), list(range(40))
    train = ArraySource(array, labels=labels, heldout=0.25)
    heldout = ArraySource(array, labels=labels, heldout=0.25, split="heldout")
    assert torch.equal(torch.cat([all_rows(train), all_rows(heldout)]), array)
    assert heldout.n_inputs == 10
    assert heldout.labels is not None and heldout.labels.tolist() == labels[30:]
    assert train.digest() != heldout.digest()


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(1, 3000), rows=st.integers(1, 3), per_pass=st.integers(1, 500)
)
def test_every_input_is_read_once_an_epoch_in_blocks_of_neighbours(
    tmp_path_factory: pytest.TempPathFactory, inputs: int, rows: int, per_pass: int
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.npy"
    np.save(path, np.arange(inputs * rows, dtype=np.float32).reshape(inputs, rows, 1))
    source = ArraySource(path, split="all", inputs_per_pass=per_pass)
    feed, seen = source.feed(), torch.empty(0)
    while len(seen) < inputs * rows:
        seen = torch.cat([seen, feed.take().rows("activations")[:, 0]])
    assert torch.equal(seen.sort().values, torch.arange(inputs * rows).float())
    neighbours = (source.order().diff() == 1).float().sum()
    assert inputs < 2048 or neighbours > 0.4 * inputs
    # the next epoch is the same, also after a skip over the first
    again = source.feed()
    again.skip_to(inputs + per_pass if per_pass < inputs else inputs)
    expected = seen[: inputs * rows].roll(-per_pass * rows if per_pass < inputs else 0)
    taken = again.take().rows("activations")[:, 0]
    assert torch.equal(taken, expected[: len(taken)])


def test_ordered_arrays_are_read_in_their_order() -> None:
    source = ArraySource(values(30, 4), ordered=True)
    assert source.ordered
    assert torch.equal(source.order(), torch.arange(27))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_activations_keep_their_data_type(tmp_path: Path, dtype: torch.dtype) -> None:
    array = values(8).to(dtype)
    (found,) = ArraySource(save(tmp_path / "a.safetensors", array), split="all").passes(
        torch.arange(8)
    )
    assert torch.equal(found.activations["activations"][:, 0], array)


def test_changes_of_a_pass_do_not_reach_the_arrays(tmp_path: Path) -> None:
    array = values(8)
    path = save(tmp_path / "a.npy", array)
    for given_array in (array, path, np.load(path, mmap_mode="r"), array.numpy()[::-1]):
        source = ArraySource(given_array, split="all")
        before = all_rows(source)
        next(source.passes(torch.arange(8))).activations["activations"].zero_()
        assert torch.equal(all_rows(source), before)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (torch.zeros(5), r"shape \(5,\); expected \[inputs, d_in\]"),
        (torch.zeros(2, 2, 2, 2), "expected .inputs, d_in."),
        (torch.zeros(3, 4, dtype=torch.int64), "is of int64; expected floating"),
        (np.zeros((3, 4), ">f4"), "byte order"),
        (np.zeros((3, 4), "U1"), "expected floating numbers"),
        ([[1.0]], "is a list; expected a numpy array"),
        ({}, "has no arrays; expected one for each point"),
        (torch.zeros(0, 4), "has no inputs"),
        (
            {"a": torch.zeros(3, 4), "b": torch.zeros(2, 4)},
            "different numbers of inputs",
        ),
    ],
)
def test_unusable_arrays_are_refused(array: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ArraySource(array)


def test_unusable_settings_are_refused() -> None:
    array = values(10)
    with pytest.raises(InputError, match="split is 'test'"):
        ArraySource(array, split="test")
    with pytest.raises(InputError, match=r"heldout=1.0; expected a share"):
        ArraySource(array, heldout=1.0)
    with pytest.raises(InputError, match="'heldout' has none of 10 inputs"):
        ArraySource(array, heldout=0, split="heldout")
    for labels in ([0] * 9, [-1] * 10, [0.5] * 10):
        with pytest.raises(InputError, match="a class, 0 or more, for each of the 10"):
            ArraySource(array, labels=labels)


def test_unusable_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="holds no arrays; expected files that end in .npy"
    ):
        ArraySource(tmp_path)
    with pytest.raises(InputError, match=r"do not exist\. Did you mean"):
        save(tmp_path / "acts.npy", values(4))
        ArraySource(tmp_path / "act.npy")
    wide = tmp_path / "wide.npy"
    np.save(wide, np.zeros((4, D_IN + 1), np.float32))
    with pytest.raises(
        InputError, match=r"wide.npy' holds .*1 x 7 float32, but .*acts.npy"
    ):
        ArraySource(tmp_path)
    wide.unlink()
    torch.save({"a": [1, 2]}, tmp_path / "b.pt")
    with pytest.raises(InputError, match="b.pt' holds a list"):
        ArraySource(tmp_path)
    (tmp_path / "b.pt").unlink()
    np.save(tmp_path / "c.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="c.npy' cannot be read as activations"):
        ArraySource(tmp_path)


@pytest.mark.parametrize("ending", [".npy", ".pt", ".safetensors"])
def test_truncated_file_is_named(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"a{ending}", values(300))
    os.truncate(path, path.stat().st_size - 2000)
    with pytest.raises(InputError, match=f"a{ending}' cannot be read .*cut short"):
        ArraySource(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_broken_number_is_found_with_file_and_input(tmp_path: Path, bad: float) -> None:
    array = values(20, 2)
    array[13, 1, 2] = bad
    save(tmp_path / "0.npy", array[:10])
    save(tmp_path / "1.npy", array[10:])
    source = ArraySource(tmp_path, split="all")
    with pytest.raises(InputError, match=r"1\.npy' holds NaN .* of input 3 "):
        all_rows(source)


def test_identity_follows_content_and_files(tmp_path: Path) -> None:
    array = values(20)
    other = array.clone()
    other[3, 3] += 1
    assert ArraySource(array).digest() == ArraySource(array.clone()).digest()
    assert ArraySource(array).digest() != ArraySource(other).digest()
    path = save(tmp_path / "a.npy", array)
    before = ArraySource(path).digest()
    assert ArraySource(path).digest() == before
    save(path, other)
    os.utime(path, ns=(0, 1))
    assert ArraySource(path).digest() != before
    assert torch.equal(all_rows(ArraySource(path, split="all")), other)


def test_configuration_opens_the_source_and_is_checked(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", values(20))
    config = ArraysConfig(path=str(path), point="layer.3", heldout=0.5)
    source = open_arrays(config, "heldout")
    assert source.points == {"layer.3": D_IN}
    assert source.n_inputs == 10
    said = source.metadata("layer.3")
    assert said["dataset_path"] == str(path)
    assert said["hook_name"] == "layer.3"
    assert said["activation_source"]["digest"] == source.digest()
    again = open_source(said["activation_source"]["config"], split="heldout")
    assert again.digest() == source.digest()
    facts = describe_arrays(config)
    assert (facts.points, facts.n_inputs, facts.most_rows) == (source.points, 10, 10)
    with pytest.raises(InputError, match="heldout=1; expected below 1"):
        ArraysConfig(path=str(path), heldout=1)
    with pytest.raises(InputError, match="unknown field 'pth'. Did you mean 'path'"):
        ArraysConfig(path="a", pth="b")  # pyright: ignore[reportCallIssue]
