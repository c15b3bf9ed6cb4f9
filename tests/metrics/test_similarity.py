import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saereg_plugin.metrics import (
    cosine_blocks,
    fraction_paired,
    mean_max_cos,
    similarity,
    unit_rows,
)
from tests.oracles import cross_seed_oracle as oracle


def gaussian(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@given(
    n_a=st.integers(1, 7),
    n_b=st.integers(1, 7),
    d=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=50)
def test_equals_plain_python(n_a: int, n_b: int, d: int, seed: int) -> None:
    a, b = gaussian(n_a, d, seed), gaussian(n_b, d, seed + 1000)
    assert mean_max_cos(a, b).mean == pytest.approx(
        oracle.mean_max(a.tolist(), b.tolist()), abs=1e-6
    )
    paired = fraction_paired(a, b)
    forward = oracle.paired(a.tolist(), b.tolist())
    backward = oracle.paired(b.tolist(), a.tolist())
    # In one dimension every |cos| is 1; elsewhere none lies within rounding of .7.
    assert paired.one_sided == pytest.approx(forward)
    assert paired.symmetrised == pytest.approx((forward + backward) / 2)


@given(scale=st.floats(1e-15, 1e15), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_scale_sign_and_order_do_not_matter(scale: float, seed: int) -> None:
    a, b = gaussian(6, 4, seed), gaussian(5, 4, seed + 1000)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(6, generator=generator)
    signs = torch.randint(0, 2, (6, 1), generator=generator) * 2.0 - 1.0
    expected, changed = mean_max_cos(a, b), mean_max_cos(a[order] * signs * scale, b)
    torch.testing.assert_close(changed.a_to_b, expected.a_to_b[order])
    torch.testing.assert_close(changed.b_to_a, expected.b_to_a)


def test_blocks_cover_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = gaussian(11, 4, 0), gaussian(7, 4, 1)
    whole = mean_max_cos(a, b)
    monkeypatch.setattr(similarity, "BLOCK_ELEMENTS", 3 * 7)
    blocks = list(cosine_blocks(a, b))
    assert [rows.start for rows, _ in blocks] == [0, 3, 6, 9]
    torch.testing.assert_close(
        torch.cat([block for _, block in blocks]), unit_rows(a) @ unit_rows(b).T
    )
    torch.testing.assert_close(mean_max_cos(a, b).b_to_a, whole.b_to_a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_zero_rows_have_cosine_zero(dtype: torch.dtype) -> None:
    a = gaussian(4, 3, 0).to(dtype)
    a[1] = 0
    best = mean_max_cos(a, a)
    assert best.a_to_b.dtype == torch.float32
    assert best.a_to_b[1] == 0
    torch.testing.assert_close(best.a_to_b[[0, 2, 3]], torch.ones(3))
    assert mean_max_cos(torch.zeros(2, 3), torch.zeros(3, 3)).mean == 0
    assert fraction_paired(a, a).one_sided == 0.75


@pytest.mark.parametrize("factor", [1e39, 1e300, 1e-40, 1e-300, 5e-324])
def test_float64_rows_are_scaled_before_they_become_float32(factor: float) -> None:
    rows = torch.tensor([[3.0, -4.0], [0.0, 0.0]], dtype=torch.float64)
    if factor > 1e-320:
        rows *= factor
        assert unit_rows(rows).tolist() == [
            pytest.approx([0.6, -0.8], abs=1e-7),
            [0.0, 0.0],
        ]
    tiny = unit_rows(torch.tensor([[0.0, -factor]], dtype=torch.float64))
    assert tiny.dtype == torch.float32
    assert tiny.tolist() == [[0.0, -1.0]]


def test_one_sided_and_symmetrised_differ() -> None:
    a = torch.eye(4)[:1]
    paired = fraction_paired(a, torch.eye(4))
    assert (paired.one_sided, paired.symmetrised) == (1.0, 0.625)
    assert not math.isnan(paired.symmetrised)


def test_rows_scaled_before_give_the_same() -> None:
    a, b = gaussian(11, 4, 0), gaussian(7, 4, 1)
    expected = mean_max_cos(a, b)
    found = mean_max_cos(unit_rows(a), unit_rows(b), unit=True)
    assert torch.equal(found.a_to_b, expected.a_to_b)
    assert torch.equal(found.b_to_a, expected.b_to_a)
