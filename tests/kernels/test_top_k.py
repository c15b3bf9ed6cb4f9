"""The exact top-k through group maxima, and the selections made with it, against torch.topk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saereg_plugin.kernels.top_k import (
    PreActivations,
    select_batch_top_k,
    select_top_k,
    top_k,
    top_k_of_all,
)

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
KINDS = ("normal", "ties", "negative", "mixed_sign_ties", "constant")


def matrix(
    kind: str, batch: int, n: int, dtype: torch.dtype, seed: int
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(batch, n, generator=generator)
    drawn = {
        "normal": normal,
        "ties": (normal.abs() * 2).floor(),
        "negative": -normal.abs() - 0.01,
        "mixed_sign_ties": (normal * 2).round(),
        "constant": torch.full_like(normal, 0.5),
    }
    return drawn[kind].to(dtype)


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    """Small widths of every kind, and wide ones whose groups are grouped again."""
    batch = draw(st.integers(1, 5))
    groups = draw(st.sampled_from([1, 2, 8, 32, 64, 512]))
    n = draw(st.integers(1, 40 if groups < 64 else 6)) * groups
    kind, dtype = draw(st.sampled_from(KINDS)), draw(st.sampled_from(DTYPES))
    return matrix(kind, batch, n, dtype, draw(st.integers(0, 2**16)))


def assert_points_at(
    values: torch.Tensor, columns: torch.Tensor, source: torch.Tensor
) -> None:
    """Every row names k different columns, and they hold the returned values."""
    assert columns.dtype == torch.int64
    assert values.dtype == source.dtype
    assert torch.equal(source.gather(1, columns), values)
    ascending = columns.sort(dim=1).values
    assert (ascending.diff(dim=1) > 0).all()


def assert_is_top_k(source: torch.Tensor, k: int) -> None:
    values, columns = top_k(source, k)
    assert values.shape == columns.shape == (source.shape[0], k)
    assert_points_at(values, columns, source)
    wanted = source.topk(k, dim=-1).values
    assert torch.equal(values.sort(dim=1, descending=True).values, wanted)


@settings(max_examples=150, deadline=None)
@given(matrices(), st.data())
def test_top_k_is_that_of_torch(source: torch.Tensor, data: st.DataObject) -> None:
    n = source.shape[1]
    # small k reach the grouped branch, the others its fallback
    k = data.draw(st.integers(1, min(n, 6)) | st.integers(1, n))
    assert_is_top_k(source, k)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), [(8192, 1), (8192, 16), (16384, 32), (4096, 127)])
def test_groups_of_groups_of_groups(kind: str, n: int, k: int) -> None:
    assert_is_top_k(matrix(kind, 3, n, torch.float32, seed=n + k), k)


@pytest.mark.parametrize(("n", "k"), [(8, 8), (1, 1), (4104, 4104), (4100, 7)])
def test_all_of_a_row_and_widths_without_groups(n: int, k: int) -> None:
    assert_is_top_k(matrix("normal", 2, n, torch.float32, seed=0), k)


@pytest.mark.parametrize("k", [1, 5, 300])
def test_input_need_not_be_contiguous(k: int) -> None:
    stored = matrix("normal", 4, 2048, torch.float32, seed=1)
    strided = matrix("normal", 4, 4096, torch.float32, seed=2)[:, ::2]
    for source in (stored.T.contiguous().T, strided):
        assert not source.is_contiguous()
        assert_is_top_k(source, k)


def test_the_largest_may_share_one_group() -> None:
    # the k largest entries in one strided group leave its other groups' maxima behind
    source = torch.zeros(2, 1024)
    source[0, 5::128] = torch.arange(8, 16.0)
    source[1, 127::128] = torch.arange(16, 8, -1.0)
    values, columns = top_k(source, 8)
    assert torch.equal(columns[0].sort().values, torch.arange(5, 1024, 128))
    assert torch.equal(columns[1].sort().values, torch.arange(127, 1024, 128))
    assert (values >= 8).all()


def assert_is_top_k_of_all(source: torch.Tensor, k: int) -> None:
    values, positions = top_k_of_all(source, k)
    flat = source.reshape(-1)
    wanted = flat.topk(min(k, flat.numel())).values
    wanted = wanted[wanted > 0]
    assert torch.equal(values.sort(descending=True).values, wanted)
    assert positions.dtype == torch.int64
    assert torch.equal(flat[positions], values)
    assert positions.unique().numel() == positions.numel() == wanted.numel()


@settings(max_examples=150, deadline=None)
@given(matrices(), st.data())
def test_top_k_of_all_is_that_of_torch(
    source: torch.Tensor, data: st.DataObject
) -> None:
    total = source.numel()
    k = data.draw(st.integers(1, min(total, 40)) | st.integers(1, total + 10))
    assert_is_top_k_of_all(source, k)


@pytest.mark.parametrize("n", [2048, 2049])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 64, 128, 4096, 20_000])
def test_top_k_of_a_wide_batch(n: int, kind: str, k: int) -> None:
    assert_is_top_k_of_all(matrix(kind, 6, n, torch.float32, seed=k), k)


@pytest.mark.parametrize("n", [96, 97])
def test_of_negative_entries_none_is_returned(n: int) -> None:
    values, positions = top_k_of_all(matrix("negative", 4, n, torch.float32, 0), 10)
    assert values.numel() == positions.numel() == 0


@pytest.mark.parametrize("n", [96, 97])
def test_zero_is_not_positive_and_fewer_than_k_may_be(n: int) -> None:
    source = -torch.ones(4, n)
    source[:, ::3] = 0.0
    source[1, 5], source[3, n - 1], source[3, 0] = 2.0, 1.0, 3.0
    values, positions = top_k_of_all(source, 10)
    order = positions.sort().indices
    assert positions[order].tolist() == [n + 5, 3 * n, 4 * n - 1]
    assert values[order].tolist() == [2.0, 3.0, 1.0]


def pre_of(seed: int = 0, *, norms: bool = False, bias: float = 0.0) -> PreActivations:
    generator = torch.Generator().manual_seed(seed)
    return PreActivations(
        sae_in=torch.randn(11, 6, generator=generator),
        W_enc=torch.randn(6, 96, generator=generator),
        b_enc=torch.randn(96, generator=generator) + bias,
        norms=torch.rand(96, generator=generator) + 0.5 if norms else None,
        dtype=torch.float32,
    )


def dense(pre: PreActivations) -> torch.Tensor:
    product = pre.sae_in @ pre.W_enc + pre.b_enc
    return product if pre.norms is None else product * pre.norms


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_blocks_together_are_the_matrix(
    norms: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saereg_plugin.kernels.top_k._BLOCK_ENTRIES", rows * 96)
    pre = pre_of(norms=norms)
    # each block is overwritten by the next
    blocks = [block.clone() for block in pre.blocks()]
    assert [len(block) for block in blocks] == [
        min(rows, 11 - start) for start in range(0, 11, rows)
    ]
    torch.testing.assert_close(torch.cat(blocks), dense(pre))
    (whole,) = pre.blocks(len(pre.sae_in))
    torch.testing.assert_close(whole, dense(pre))


def assert_selects(selection: Any, wanted: torch.Tensor, entries: torch.Tensor) -> None:
    selected, values = selection
    mask = torch.zeros_like(wanted)
    mask[selected.rows, selected.latents] = True
    assert torch.equal(mask, wanted)
    flat = selected.rows * selected.d_sae + selected.latents
    assert (flat.diff() > 0).all()
    torch.testing.assert_close(values, entries[selected.rows, selected.latents])


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_row_selection_is_sorted_and_keeps_negative_entries(
    norms: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saereg_plugin.kernels.top_k._BLOCK_ENTRIES", rows * 96)
    for bias in (0.0, -20.0):
        pre = pre_of(norms=norms, bias=bias)
        entries = dense(pre)
        wanted = torch.zeros_like(entries, dtype=torch.bool)
        wanted.scatter_(1, entries.topk(5).indices, True)
        assert (entries[wanted] > 0).all() == (bias == 0.0)
        assert_selects(select_top_k(pre, 5), wanted, entries)


@pytest.mark.parametrize("norms", [False, True])
def test_batch_selection_leaves_rows_empty(norms: bool) -> None:
    pre = pre_of(norms=norms)
    pre.sae_in[3] = 0.0
    pre.b_enc[:] = -1.0
    entries = dense(pre)
    threshold = entries.reshape(-1).topk(55).values[-1]
    assert threshold > 0
    selection = select_batch_top_k(pre, 55)
    assert_selects(selection, entries >= threshold, entries)
    counts = selection[0].row_offsets.diff()
    assert counts[3] == 0 and counts.sum() == 55 and counts.unique().numel() > 2


def test_batch_selection_takes_positive_entries_only() -> None:
    few = pre_of(bias=-6.0)
    entries = dense(few)
    assert 0 < (entries > 0).sum() < 100
    assert_selects(select_batch_top_k(few, 100), entries > 0, entries)
    none = select_batch_top_k(pre_of(bias=-100.0), 100)
    assert none[1].numel() == 0
    assert torch.equal(none[0].row_offsets, torch.zeros(12, dtype=torch.int64))


def test_no_rows_have_no_selection() -> None:
    pre = PreActivations(
        torch.zeros(0, 4), torch.randn(4, 64), torch.zeros(64), None, torch.float32
    )
    selected, values = select_top_k(pre, 3)
    assert (selected.batch, len(selected.latents), len(values)) == (0, 0, 0)
