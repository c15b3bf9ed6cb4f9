"""Products over the selected pairs against the same products with dense matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saereg_plugin.kernels.selected import Selected, select_rows, transposed

D = 7


def selected_from(mask: torch.Tensor) -> Selected:
    """The selection of the True entries of ``mask`` [batch, d_sae]."""
    counts = mask.sum(dim=1)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Selected(mask.nonzero()[:, 1], offsets, mask.shape[1])


@st.composite
def masks(draw: st.DrawFn) -> torch.Tensor:
    """Ragged rows, among them empty ones, and latents that no row selects."""
    batch, d_sae = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    mask = torch.rand(batch, d_sae, generator=generator) < density
    mask[draw(st.integers(0, batch - 1))] = draw(st.booleans())
    mask[:, draw(st.integers(0, d_sae - 1))] = False
    return mask


def example() -> torch.Tensor:
    """First, last and a middle row empty; first, last and a middle latent never selected."""
    mask = torch.rand(12, 30, generator=torch.Generator().manual_seed(0)) < 0.4
    for index in (0, 5, -1):
        mask[index] = False
        mask[:, index] = False
    return mask


def weights_of(selected: Selected, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(
        selected.latents.numel(), generator=generator, dtype=torch.float64
    )


def filled(mask: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The dense matrix of the weights; a mask is filled in the order of the pairs."""
    return torch.zeros(mask.shape, dtype=weights.dtype).masked_scatter(mask, weights)


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@settings(max_examples=100, deadline=None)
@given(masks(), st.data())
def test_products_are_those_of_the_dense_matrix(
    mask: torch.Tensor, data: st.DataObject
) -> None:
    batch, d_sae = mask.shape
    selected = selected_from(mask)
    weights = weights_of(selected)
    z = filled(mask, weights)
    decoder, inputs = drawn(d_sae, D), drawn(batch, D, seed=2)
    start = data.draw(st.integers(0, d_sae))
    end = data.draw(st.integers(start, d_sae))

    assert selected.batch == batch
    assert torch.equal(selected.rows, mask.nonzero()[:, 0])
    close = torch.testing.assert_close
    close(selected.weighted_rows(weights, decoder), z @ decoder)
    close(selected.weighted_latents(weights, inputs), z.T @ inputs)
    close(
        selected.weighted_latents(weights, inputs, start=start, end=end),
        z[:, start:end].T @ inputs,
    )
    close(
        selected.weighted_latents(weights, inputs, start=start),
        z[:, start:].T @ inputs,
    )
    columns = selected.weighted_columns(weights, inputs)
    close(columns, inputs.T @ z)
    assert columns.is_contiguous()
    close(selected.dots(inputs, decoder), (inputs @ decoder.T)[mask])
    close(selected.latent_sums(weights), z.sum(dim=0))


@settings(max_examples=50, deadline=None)
@given(masks(), st.integers(0, 2**16))
def test_keep_is_a_smaller_selection(mask: torch.Tensor, seed: int) -> None:
    selected = selected_from(mask)
    weights = weights_of(selected)
    kept = torch.rand(len(weights), generator=torch.Generator().manual_seed(seed)) < 0.5
    smaller = selected.keep(kept)
    left = mask.masked_scatter(mask, kept)
    wanted = selected_from(left)
    assert torch.equal(smaller.latents, wanted.latents)
    assert torch.equal(smaller.row_offsets, wanted.row_offsets)
    assert torch.equal(smaller.rows, left.nonzero()[:, 0])
    decoder = drawn(mask.shape[1], D)
    torch.testing.assert_close(
        smaller.weighted_rows(weights[kept], decoder),
        filled(left, weights[kept]) @ decoder,
    )


@settings(max_examples=50, deadline=None)
@given(masks())
def test_sparse_matrix_is_the_dense_one_and_coalesced(mask: torch.Tensor) -> None:
    selected = selected_from(mask)
    weights = weights_of(selected)
    sparse = selected.to_coo(weights)
    assert torch.equal(sparse.to_dense(), filled(mask, weights))
    # the flag is set, not found out: pairs in another order would make it a lie
    assert sparse.is_coalesced()
    again = torch.sparse_coo_tensor(
        sparse.indices(), sparse.values(), sparse.shape, check_invariants=True
    )
    assert torch.equal(again.coalesce().indices(), sparse.indices())
    assert torch.equal(again.coalesce().values(), weights)


@settings(max_examples=50, deadline=None)
@given(masks(), st.integers(0, 2**16))
def test_products_follow_a_permutation_of_rows_and_latents(
    mask: torch.Tensor, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(mask.shape[0], generator=generator)
    latents = torch.randperm(mask.shape[1], generator=generator)
    selected = selected_from(mask)
    z = filled(mask, weights_of(selected))
    moved_mask = mask[rows][:, latents]
    moved, weights = selected_from(moved_mask), z[rows][:, latents][moved_mask]
    decoder, inputs = drawn(mask.shape[1], D), drawn(mask.shape[0], D, seed=2)
    pairs = z[mask]
    close = torch.testing.assert_close
    close(
        moved.weighted_rows(weights, decoder[latents]),
        selected.weighted_rows(pairs, decoder)[rows],
    )
    close(
        moved.weighted_latents(weights, inputs[rows]),
        selected.weighted_latents(pairs, inputs)[latents],
    )
    close(moved.latent_sums(weights), selected.latent_sums(pairs)[latents])
    dots = filled(mask, selected.dots(inputs, decoder))[rows][:, latents]
    close(moved.dots(inputs[rows], decoder[latents]), dots[moved_mask])


def test_unselected_rows_and_latents_get_exact_zeros() -> None:
    mask = example()
    selected = selected_from(mask)
    weights = weights_of(selected)
    rows = selected.weighted_rows(weights, drawn(30, D))
    latents = selected.weighted_latents(weights, drawn(12, D))
    for product, taken in ((rows, mask.any(dim=1)), (latents, mask.any(dim=0))):
        assert 0 < taken.sum() < len(taken)
        assert torch.equal((product != 0).any(dim=1), taken)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_data_type_is_that_of_the_operands(dtype: torch.dtype) -> None:
    selected = selected_from(example())
    weights = weights_of(selected).to(dtype)
    decoder, inputs = drawn(30, D).to(dtype), drawn(12, D).to(dtype)
    for product in (
        selected.weighted_rows(weights, decoder),
        selected.weighted_latents(weights, inputs),
        selected.weighted_columns(weights, inputs),
        selected.dots(inputs, decoder),
        selected.latent_sums(weights),
        selected.to_coo(weights),
    ):
        assert product.dtype == dtype


def test_rows_of_equal_length() -> None:
    latents = torch.tensor([[0, 3, 4], [1, 2, 5]])
    selected = select_rows(latents, 6)
    assert torch.equal(selected.row_offsets, torch.tensor([0, 3, 6]))
    assert torch.equal(selected.rows, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert torch.equal(selected.latents, latents.reshape(-1))
    assert selected.d_sae == 6


@pytest.mark.parametrize("rows", [1, 3, 255, 256, 257, 513])
@pytest.mark.parametrize("columns", [1, 5, 300])
def test_transpose_of_odd_shapes(rows: int, columns: int) -> None:
    wide = drawn(rows, 2 * columns)
    for matrix in (
        wide[:, :columns].contiguous(),
        wide[:, ::2],
        drawn(columns, rows).T,
    ):
        result = transposed(matrix)
        assert result.is_contiguous()
        assert result.dtype == matrix.dtype
        assert torch.equal(result, matrix.T)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_transpose_has_memory_of_its_own(device: str) -> None:
    matrix = torch.empty(6, 4, device=device).T
    found = transposed(matrix)
    assert found.is_contiguous() and found.shape == (6, 4)
    storages = [each.untyped_storage()._cdata for each in (found, matrix)]
    assert storages[0] != storages[1]
