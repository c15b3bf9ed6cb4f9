from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from saereg_plugin.metrics import (
    alive_mask,
    dead_count,
    encoder_decoder_cosines,
    expected_abs_cosine,
    row_geometry,
    row_norms,
    similarity,
)
from tests.oracles import cross_seed_oracle as oracle


@given(n=st.integers(2, 9), d=st.integers(1, 6), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_equals_plain_python(n: int, d: int, seed: int) -> None:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    found = row_geometry(rows)
    cosines = sorted(abs(c) for c in oracle.off_diagonal(rows.tolist()))
    assert found.mean_abs == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)
    assert found.max_abs == pytest.approx(cosines[-1], abs=1e-6)
    assert found.mean_max == pytest.approx(
        oracle.mean_max_signed(rows.tolist()), abs=1e-6
    )
    quantiles = (found.median_abs, found.p90_abs, found.p99_abs)
    for q, value in zip((0.5, 0.9, 0.99), quantiles, strict=True):
        # First value at which the cumulative share reaches q.
        exact = next(
            c for i, c in enumerate(cosines) if (i + 1) / len(cosines) >= q - 1e-9
        )
        assert value == pytest.approx(exact, abs=1e-4)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    whole = row_geometry(rows)
    monkeypatch.setattr(similarity, "BLOCK_ELEMENTS", 7 * 50)
    blocks = row_geometry(rows)
    assert blocks[:6] == pytest.approx(whole[:6], abs=1e-6)
    torch.testing.assert_close(blocks.row_mean_abs, whole.row_mean_abs)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation put out."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_the_square_matrix_is_never_held() -> None:
    n = 4000
    rows = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    with LargestTensor() as seen:
        row_geometry(rows)
    assert n < seen.elements <= similarity.BLOCK_ELEMENTS < n * n


def test_rows_scaled_before_give_the_same() -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    expected = row_geometry(rows)
    found = row_geometry(similarity.unit_rows(rows), unit=True)
    assert found[:6] == expected[:6]


@pytest.mark.parametrize("d", [3, 64, 512])
def test_random_rows_reach_the_baseline(d: int) -> None:
    rows = torch.randn(2000, d, generator=torch.Generator().manual_seed(d))
    assert row_geometry(rows).mean_abs == pytest.approx(
        expected_abs_cosine(d), rel=0.01
    )


def test_expected_abs_cosine() -> None:
    assert expected_abs_cosine(1) == pytest.approx(1)
    assert expected_abs_cosine(3) == pytest.approx(0.5)
    assert expected_abs_cosine(512) == pytest.approx(0.0353, abs=5e-5)
    assert expected_abs_cosine(100_000) == pytest.approx(0.0025231, rel=1e-4)


def test_zero_rows_and_alive_latents() -> None:
    dec = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
    enc = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.05]])
    assert encoder_decoder_cosines(enc, dec)[:2].tolist() == [1.0, 0.0]
    alive = alive_mask(enc, dec)
    assert (alive.tolist(), dead_count(alive)) == ([True, False, False], 2)
    assert row_norms(dec).tolist() == [2.0, 0.0, 3.0]
    found = row_geometry(dec)
    assert (found.mean_abs, found.max_abs, found.mean_max) == (0.0, 0.0, 0.0)


def test_mean_cos_sim_is_signed() -> None:
    found = row_geometry(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    assert (found.mean_max, found.mean_abs) == (-1.0, 1.0)


def test_one_row_has_no_geometry() -> None:
    with pytest.raises(ValueError, match="two or more"):
        row_geometry(torch.ones(1, 3))
