"""Activations of modules of one's own: right values, early stop, clear errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from saereg_plugin.activations.module import ModuleSource
from saereg_plugin.activations.rows import Layout, Rows, select_rows
from saereg_plugin.errors import InputError
from saereg_plugin.sources.modules import Prepared


class Network(nn.Module):
    """Two convolutions, pooled tokens, and a head that must never run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 2, stride=2)
        self.second = nn.Conv2d(4, 6, 1)
        self.head = nn.Linear(6, 2)
        self.head_runs = 0

    def forward(self, x: Tensor) -> Tensor:
        maps = self.second(self.first(x).relu())
        self.head_runs += 1
        return self.head(maps.mean((2, 3)))


def images(n: int = 10) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def everything(source: ModuleSource, point: str) -> Tensor:
    numbers = torch.arange(source.n_inputs)
    return torch.cat([found.activations[point] for found in source.passes(numbers)])


def test_rows_are_the_positions_of_a_map() -> None:
    network, data = Network(), images()
    source = ModuleSource(
        network, data, point="first", rows="patches", inputs_per_pass=4
    )
    with torch.no_grad():
        maps = network.first(data)
    expected = torch.stack([maps[:, :, i // 4, i % 4] for i in range(16)], dim=1)
    torch.testing.assert_close(everything(source, "first"), expected)
    assert (source.points, source.rows_per_input) == ({"first": 4}, 16)


def test_the_pass_ends_at_the_last_point_that_is_read() -> None:
    network = Network()
    source = ModuleSource(network, images(), point=["first", "second"], rows="mean")
    everything(source, "second")
    assert network.head_runs == 0
    ModuleSource(network, images(), point="head")
    assert network.head_runs == 1
    assert not network.first._forward_hooks


def test_patterns_choose_points_in_the_order_of_the_module() -> None:
    source = ModuleSource(Network(), images(), point="*", rows="mean")
    assert source.points == {"first": 4, "second": 6, "head": 2}


def test_batches_of_a_point_do_not_depend_on_the_others() -> None:
    def batches(point: Any) -> list[Tensor]:
        source = ModuleSource(Network(), images(40), point=point, rows="patches")
        found = source.batches(32, point="first", buffer_rows=128, seed=3)
        return [next(found) for _ in range(25)]

    for one, other in zip(batches("first"), batches(["second", "first"])):
        assert torch.equal(one, other)


def test_every_row_is_served_once_in_an_epoch() -> None:
    data = torch.arange(24.0).reshape(12, 2)
    source = ModuleSource(
        nn.Sequential(nn.Identity()), data, point="0", inputs_per_pass=5
    )
    batches = source.batches(4, buffer_rows=4, mixing_fraction=0)
    first, second = (torch.cat([next(batches) for _ in range(3)]) for _ in range(2))
    assert torch.equal(first, data[source.order()])
    assert torch.equal(first, second)


def test_resumed_batches_are_the_same() -> None:
    source = ModuleSource(Network(), images(30), point="first", rows="patches")
    whole = source.batches(16, buffer_rows=64, seed=1)
    for _ in range(40):
        next(whole)
    state = whole.state_dict()
    expected = [next(whole).clone() for _ in range(40)]
    resumed = source.batches(16, buffer_rows=64, seed=1)
    resumed.load_state_dict(state)
    for batch in expected:
        assert torch.equal(next(resumed), batch)


def test_labels_come_with_the_data_and_tuples_give_their_first() -> None:
    data = torch.utils.data.TensorDataset(images(), torch.arange(10))
    source = ModuleSource(Network(), data, point="second", rows="mean")
    plain = ModuleSource(Network(), images(), point="second", rows="mean")
    assert torch.equal(everything(source, "second"), everything(plain, "second"))
    assert plain.labels is None


class Labelled(torch.utils.data.Dataset[Any]):
    """Pairs of an image and a class, which torchvision's data sets list in ``targets``."""

    classes = ("cat", "dog")

    def __init__(self, targets: Any) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return 10

    def __getitem__(self, number: int) -> Any:
        return images()[number], self.targets[number]


def test_classes_are_those_given_or_those_of_the_data() -> None:
    def found(targets: Any, labels: Any = None) -> list[int] | None:
        source = ModuleSource(
            Network(), Labelled(targets), point="second", labels=labels
        )
        assert source.class_names == ("cat", "dog")
        return None if source.labels is None else source.labels.tolist()

    targets = [0, 1] * 5
    assert found(targets) == found(np.array(targets)) == targets
    assert found(targets, labels=torch.ones(10)) == [1] * 10
    assert found([f"masks/{n}.png" for n in range(10)]) is None
    with pytest.raises(InputError, match="10 items and 3 labels"):
        found(targets, labels=[1, 0, 1])


def test_weights_and_data_change_the_digest() -> None:
    def digest(change: Callable[[Network, Tensor], None]) -> str:
        network, data = Network(), images()
        change(network, data)
        return ModuleSource(network, data, point="first").digest()

    def weights(network: Network, _data: Tensor) -> None:
        network.head.weight.data += 1

    def pixels(_network: Network, data: Tensor) -> None:
        data[3] += 1

    same = digest(lambda *_: None)
    assert digest(lambda *_: None) == same

    def order(_network: Network, data: Tensor) -> None:
        data[[0, 1]] = data[[1, 0]]

    assert len({same, digest(weights), digest(pixels), digest(order)}) == 4


def doubled(items: Any) -> Tensor:
    return 2 * torch.stack(list(items))


def test_preparation_layout_and_items_change_the_digest() -> None:
    def digest(data: Any, **options: Any) -> str:
        return ModuleSource(Network(), data, point="first", **options).digest()

    given = list(images())
    swapped = [given[1], given[0], *given[2:]]
    assert digest(given) == digest(list(images()))
    digests = {
        digest(given),
        digest(swapped),
        digest(given, prepare=doubled),
        digest(given, layout=Layout(channels_last=True)),
    }
    assert len(digests) == 4


class Counted(list[Tensor]):
    """Images that count how often they are asked who they are."""

    asked = 0

    def identity(self) -> str:
        self.asked += 1
        return "counted"


def test_the_identity_is_made_once() -> None:
    data = Counted(images())
    source = ModuleSource(Network(), data, point=["first", "second"], rows="mean")
    for point in source.points:
        assert source.metadata(point)["activation_source"]["digest"] == source.digest()
    assert data.asked == 1


def test_the_grid_of_a_map_is_recorded() -> None:
    network, wide = Network(), torch.randn(2, 3, 4, 16)
    cases: list[tuple[Rows, list[int] | None]] = [("patches", [2, 8]), ("mean", None)]
    for rows, grid in cases:
        source = ModuleSource(network, wide, point="first", rows=rows)
        assert source.metadata("first")["activation_source"].get("grid") == grid


class Words(nn.Module):
    """Embeddings of tokens, scaled by a float argument."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3, dtype=torch.float64)
        self.scale = nn.Identity()

    def forward(self, ids: Tensor, scale: Tensor | None = None) -> Tensor:
        found = self.embed(ids)
        return found if scale is None else self.scale(found * scale)


def test_whole_numbers_and_mappings_reach_the_module() -> None:
    words, ids = Words(), torch.tensor([[0, 1], [4, 2]])
    source = ModuleSource(words, ids, point="embed")
    assert torch.equal(everything(source, "embed"), words.embed.weight[ids])

    def prepare(items: Any) -> dict[str, Any]:
        return {"ids": torch.stack(list(items)), "scale": torch.tensor(2.0)}

    twice = ModuleSource(words, ids, point="scale", prepare=prepare)
    found = everything(twice, "scale")
    assert found.dtype == torch.float64
    assert torch.equal(found, 2 * words.embed.weight[ids])


def windows(items: Any) -> Prepared:
    """Clips padded to the longest, as wav2vec2 takes them."""
    lengths = [len(item) for item in items]
    padded = nn.utils.rnn.pad_sequence(list(items), batch_first=True)
    return Prepared({"input": padded}, torch.tensor(lengths) / max(lengths))


def test_clips_have_different_numbers_of_rows_and_a_mean_without_padding() -> None:
    clips = [torch.randn(n, 3) for n in (4, 2, 3)]
    network = nn.Sequential(nn.Identity(), nn.Linear(3, 3))
    for rows in ("all", "patches", "frames"):
        source = ModuleSource(network, clips, point="0", rows=rows, prepare=windows)
        assert source.rows_per_input is None
    mean = ModuleSource(network, clips, point="0", rows="mean", prepare=windows)
    assert mean.rows_per_input == 1
    expected = torch.stack([clip.mean(0, keepdim=True) for clip in clips])
    torch.testing.assert_close(everything(mean, "0"), expected)


class Parts(nn.Module):
    """Modules that are not run, return no tensor, or return one among others."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.text = Text()
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        self.text(x)
        return self.pair(x)[0]


class Text(nn.Module):
    def forward(self, x: Tensor) -> str:
        return str(x.shape)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[None, Tensor]:
        return None, x * 2


def test_the_first_tensor_of_a_tuple_is_read() -> None:
    data = torch.randn(3, 2)
    source = ModuleSource(Parts(), data, point="pair")
    assert torch.equal(everything(source, "pair")[:, 0], data * 2)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("unused", "Point 'unused' is never run in a forward pass of Parts"),
        ("text", "Module 'text' returns str; expected a tensor"),
        ("pear", "No point 'pear'. Did you mean 'pair'?"),
    ],
)
def test_points_that_give_nothing_are_refused(point: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModuleSource(Parts(), torch.randn(3, 2), point=point)


def test_bad_data_is_refused() -> None:
    with pytest.raises(InputError, match="Data 'Tensor' is empty"):
        ModuleSource(Network(), images(0), point="first")
    with pytest.raises(InputError, match="An input is ndarray; expected a tensor"):
        ModuleSource(Network(), [np.zeros(3)], point="first")
    broken = images()
    broken[7, 0, 0, 0] = torch.nan
    source = ModuleSource(Network(), broken, point="first")
    with pytest.raises(InputError, match=r"NaN or infinity for 'input 7' \(input 7\)"):
        everything(source, "first")


def test_points_with_different_numbers_of_rows_are_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Conv2d(4, 4, 2))
    with pytest.raises(InputError, match="'0' and '1' give 49 and 36 rows"):
        ModuleSource(network, images(), point=["0", "1"], rows="patches")
    ModuleSource(network, images(), point=["0", "1"], rows="mean")


ROWS: list[tuple[Rows, slice]] = [
    ("cls", slice(0, 1)),
    ("patches", slice(3, None)),
    ("all", slice(None)),
]


@pytest.mark.parametrize(("rows", "expected"), ROWS)
@given(n=st.integers(1, 4), t=st.integers(4, 9), d=st.integers(1, 5))
def test_rows_of_tokens(rows: Rows, expected: slice, n: int, t: int, d: int) -> None:
    output = torch.randn(n, t, d)
    layout = Layout(prefix_tokens=3, has_class_token=True)
    found, keep = select_rows(output, rows, layout)
    assert torch.equal(found, output[:, expected])
    assert keep.all() and keep.shape == found.shape[:2]
    mean, _ = select_rows(output, "mean", layout)
    torch.testing.assert_close(mean[:, 0], output[:, 3:].mean(1))


def test_rows_of_maps_whose_channels_are_last() -> None:
    maps = torch.randn(2, 3, 4, 5)
    last, _ = select_rows(maps.permute(0, 2, 3, 1), "all", Layout(channels_last=True))
    assert torch.equal(last, select_rows(maps, "all", Layout())[0])


@given(n=st.integers(1, 4), t=st.integers(1, 9), seed=st.integers(0, 99))
def test_frames_end_where_the_clip_does(n: int, t: int, seed: int) -> None:
    share = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    _, keep = select_rows(torch.zeros(n, t, 2), "frames", Layout(), share=share)
    for row, part in zip(keep.tolist(), share.tolist()):
        kept = max(1, int(np.ceil(np.float32(part) * t)))
        assert row == [i < kept for i in range(t)]


@pytest.mark.parametrize(
    ("shape", "rows", "message"),
    [
        ((2, 5, 3), "cls", "the model has no class token"),
        ((2, 5, 3), "frames", "the inputs have no length"),
        ((2, 3, 4, 4), "cls", r"shape \(2, 3, 4, 4\)"),
        ((2, 3), "patches", r"shape \(2, 3\)"),
        ((2,), "all", r"shape \(2,\)"),
    ],
)
def test_rows_that_an_output_does_not_have(
    shape: tuple[int, ...], rows: Rows, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        select_rows(torch.zeros(shape), rows, Layout())
