"""Rows of a pass, gathered in memory that grows by doubling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saereg_plugin.metrics import Codes, CodesBuffer, RowBuffer
from saereg_plugin.metrics import buffer as module


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    width=st.sampled_from([(), (3,), (2, 2)]),
    dtype=st.sampled_from([torch.float64, torch.int64, torch.bool]),
    least=st.sampled_from([1, 4, 1 << 20]),
)
def test_rows_come_back_in_their_order(
    sizes: list[int], width: tuple[int, ...], dtype: torch.dtype, least: int
) -> None:
    generator = torch.Generator().manual_seed(len(sizes))
    parts = [
        torch.randint(0, 99, (n, *width), generator=generator).to(dtype) for n in sizes
    ]
    held = RowBuffer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LEAST", least)
        for part in parts:
            held.add(part)
    joined = held.joined()
    assert len(held) == sum(sizes)
    assert joined.dtype == dtype
    assert torch.equal(joined, torch.cat(parts))


def test_growth_copies_a_row_at_most_a_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LEAST", 1)
    held = RowBuffer()
    places = set()
    for number in range(1000):
        held.add(torch.tensor([number]))
        places.add(held.joined().data_ptr())
    assert len(places) <= 12
    assert held.joined().tolist() == list(range(1000))


def test_an_empty_buffer_has_nothing_to_join() -> None:
    with pytest.raises(ValueError, match="nothing was added"):
        RowBuffer().joined()
    with pytest.raises(ValueError, match="nothing was added"):
        CodesBuffer(2).joined()


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_codes_of_parts_are_the_codes_of_the_whole(counts: list[int]) -> None:
    acts = torch.rand(sum(counts), 5).relu() * (torch.rand(sum(counts), 5) < 0.5)
    held = CodesBuffer(5)
    for part in acts.split(counts):
        held.add(Codes.of(part))
    joined, whole = held.joined(), Codes.of(acts)
    assert len(held) == len(joined) == sum(counts)
    assert torch.equal(joined.latents, whole.latents)
    assert torch.equal(joined.images, whole.images)
    assert torch.equal(joined.values, whole.values)
