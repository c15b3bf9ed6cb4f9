"""A given similarity matrix: any range, and float64 without loss before the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saereg_plugin.errors import InputError
from saereg_plugin.metrics.assignment.weights import DenseWeights
from saereg_plugin.metrics.matching import hungarian
from tests.oracles import assignment_oracle as oracle


@given(
    n_a=st.integers(1, 12),
    n_b=st.integers(1, 12),
    exponent=st.integers(-40, 40),
    shift=st.sampled_from([0.0, -0.5, -3.0]),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=100)
def test_a_float32_matrix_may_have_any_range(
    n_a: int, n_b: int, exponent: int, shift: float, seed: int
) -> None:
    scores = torch.rand(n_a, n_b, generator=torch.Generator().manual_seed(seed))
    scores = (scores + shift) * 2.0**exponent
    found = hungarian(scores)
    best = oracle.best_total(scores.double().numpy())
    largest = float(scores.abs().max())
    assert found.gap == 0
    assert found.similarity.dtype == torch.float32
    assert float(found.similarity.double().sum()) == pytest.approx(
        best, abs=1e-7 * largest * min(n_a, n_b)
    )


@given(
    n_a=st.integers(1, 12),
    n_b=st.integers(1, 12),
    exponent=st.integers(-990, 990),
    close=st.booleans(),
    lowest=st.sampled_from([0.0, -0.5, -3.0]),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=100)
def test_a_float64_matrix_keeps_its_digits_and_its_range(
    n_a: int, n_b: int, exponent: int, close: bool, lowest: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n_a, n_b, generator=generator, dtype=torch.float64)
    # entries that float32 could not tell from one another
    scores = (1 + 1e-7 * scores if close else scores) + lowest
    found = hungarian(scores * 2.0**exponent)
    assert found.gap == 0
    assert found.similarity.dtype == torch.float64
    total = float((found.similarity * 2.0**-exponent).sum())
    power = 2.0 ** np.ceil(np.log2(float(scores.abs().max())))
    step = power * (2**-30 if float(scores.min()) >= 0 else 2**-29)
    assert abs(total - oracle.best_total(scores.numpy())) <= 1.01 * min(n_a, n_b) * step
    chosen = found.partner.clamp(min=0)
    taken = torch.where(
        found.partner >= 0, scores[torch.arange(n_a), chosen] * 2.0**exponent, 0
    )
    assert float(((taken - found.similarity) * 2.0**-exponent).abs().max()) <= step


def test_differences_below_float32_decide() -> None:
    more = 1 + 3e-8
    assert hungarian(torch.tensor([[1, more], [more, 1]]).double()).gap == 0
    scores = torch.tensor([[1, more], [more, 1]], dtype=torch.float64)
    found = hungarian(scores)
    assert found.partner.tolist() == [1, 0]
    assert float(found.similarity.sum()) == pytest.approx(2 * more, abs=2**-28)
    assert found.gap == 0


@pytest.mark.parametrize("factor", [1e39, 1e300, -1e300, 1e-300])
def test_values_beyond_float32_are_matched(factor: float) -> None:
    scores = torch.tensor([[3, 2, 1], [3, 1, 2]], dtype=torch.float64) * factor
    found = hungarian(scores)
    best = oracle.best_total(scores.numpy())
    assert float(found.similarity.sum()) == pytest.approx(best, rel=1e-8)
    assert found.best.a_to_b.tolist() == pytest.approx(scores.amax(dim=1).tolist())
    assert found.gap == 0


@pytest.mark.parametrize("value", [1e305, -1e305, 1e-305])
def test_what_leaves_no_room_for_sums_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="largest entry of similarity is 1e.*Scale"):
        hungarian(torch.tensor([[value, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16])
def test_other_types_are_taken_as_numbers(dtype: torch.dtype) -> None:
    scores = torch.tensor([[1, 0], [1, 1]]).to(dtype)
    assert hungarian(scores).partner.tolist() == [0, 1]
    shown = DenseWeights(scores)
    ((_, block),) = shown.blocks()
    assert shown.grid.similarity(block).tolist() == [[1, 0], [1, 1]]
