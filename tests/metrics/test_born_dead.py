"""Outlier severity and its predictions, against plain loops and draws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from saereg_plugin.metrics.born_dead import (
    born_dead_by_relu,
    born_dead_by_spread_topk,
    born_dead_by_topk,
    effective_rank,
    layer_normalised,
    outlier_severity,
)
from tests.oracles import death_oracle as oracle


def rows(n: int, d: int, *, seed: int, shift: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator).double() + shift * torch.arange(d) / d


def gamma_of(x: torch.Tensor) -> float:
    mean_square = float(x.square().sum(-1).mean())
    return outlier_severity(mean_square, float(x.mean(0).square().sum()))


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(2, 30),
    d=st.integers(3, 12),
    seed=st.integers(0, 99),
    shift=st.floats(0, 50),
)
def test_gamma_after_layer_norm_equals_the_plain_version(
    n: int, d: int, seed: int, shift: float
) -> None:
    x = rows(n, d, seed=seed, shift=shift)
    plain = oracle.layer_norm(x.tolist())
    torch.testing.assert_close(layer_normalised(x), torch.tensor(plain).double())
    expected = oracle.gamma(plain)
    # of rows that hardly vary a difference of sums keeps fewer digits
    assume(expected < 1000)
    assert gamma_of(layer_normalised(x)) == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=20)
@given(n=st.integers(3, 30), d=st.integers(2, 10), seed=st.integers(0, 99))
def test_effective_rank_equals_that_of_singular_values(
    n: int, d: int, seed: int
) -> None:
    x = rows(n, d, seed=seed)
    covariance = torch.cov(x.T, correction=0)
    expected = oracle.effective_rank(x.tolist())
    assert effective_rank(covariance) == pytest.approx(expected, rel=1e-6)


def test_gamma_does_not_change_with_scale() -> None:
    x = rows(50, 8, seed=0, shift=4.0)
    assert gamma_of(x) == pytest.approx(gamma_of(1000 * x))


def test_rows_that_do_not_vary_have_infinite_gamma() -> None:
    assert gamma_of(torch.ones(5, 3).double()) == math.inf
    assert math.isnan(gamma_of(torch.zeros(5, 3).double()))


def test_effective_rank_of_one_direction_is_one_and_of_nothing_is_undefined() -> None:
    row = torch.randn(6, generator=torch.Generator().manual_seed(0)).double()
    assert effective_rank(torch.outer(row, row)) == pytest.approx(1.0)
    assert math.isnan(effective_rank(torch.zeros(3, 3)))


@pytest.mark.parametrize("gamma", [0.5, 1.5, 5.0, 50.0])
@pytest.mark.parametrize("n", [1000, 100_000])
def test_predictions_equal_the_published_formula(gamma: float, n: int) -> None:
    assert born_dead_by_relu(gamma, tokens=n) == pytest.approx(
        oracle.predicted(gamma, n)
    )
    found = born_dead_by_topk(gamma, k=64, d_sae=8192, tokens=n)
    assert found == pytest.approx(oracle.predicted(gamma, n, 64, 8192))


@pytest.mark.parametrize("gamma", [1.0, 3.0, 10.0])
def test_the_prediction_by_relu_is_near_what_draws_give(gamma: float) -> None:
    drawn = oracle.born_dead_share(gamma, tokens=1000, latents=4000, seed=0)
    # C is a quantile, not the mean of the largest of N
    assert born_dead_by_relu(gamma, tokens=1000) == pytest.approx(drawn, abs=0.03)


@pytest.mark.parametrize("gamma", [3.0, 6.0, 12.0])
def test_the_prediction_by_topk_is_near_what_draws_give_at_large_gamma(
    gamma: float,
) -> None:
    drawn = oracle.born_dead_topk_share(
        gamma, k=16, d_sae=512, d_in=128, tokens=1000, seed=1
    )
    found = born_dead_by_topk(gamma, k=16, d_sae=512, tokens=1000)
    assert found == pytest.approx(drawn, abs=0.08)


@pytest.mark.parametrize("gamma", [0.7, 1.0, 2.0, 6.0, 12.0])
def test_the_prediction_with_the_spread_of_tokens_holds_at_any_gamma(
    gamma: float,
) -> None:
    drawn = oracle.born_dead_topk_share(
        gamma, k=16, d_sae=512, d_in=128, tokens=1000, seed=2
    )
    found = born_dead_by_spread_topk(gamma, k=16, d_sae=512, tokens=1000)
    published = born_dead_by_topk(gamma, k=16, d_sae=512, tokens=1000)
    assert found == pytest.approx(drawn, abs=0.1)
    if gamma <= 1:
        assert abs(found - drawn) < abs(published - drawn)


def test_both_predictions_agree_at_large_gamma() -> None:
    found = [
        predict(100.0, k=16, d_sae=512)
        for predict in (born_dead_by_spread_topk, born_dead_by_topk)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_topk_predicts_at_least_as_many_dead_as_relu() -> None:
    for gamma in (0.5, 2.0, 20.0):
        assert born_dead_by_topk(gamma, k=4, d_sae=64) >= born_dead_by_relu(gamma)
    assert born_dead_by_topk(5.0, k=64, d_sae=64) == 0.0
    assert born_dead_by_relu(math.inf) == pytest.approx(0.5)
