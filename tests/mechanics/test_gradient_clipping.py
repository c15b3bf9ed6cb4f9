"""Clipping at c < 1 after SAELens' clipping at 1 is clipping at c."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import saereg_plugin as sr
from saereg_plugin.mechanics.gradient_clipping import clip_factor, total_norm
from tests.mechanics.small import backward, data, small_sae, small_stock, train
from tests.training import ARCHITECTURES, assert_same_state

EPSILON = 1e-6


@given(log_norm=st.floats(-6, 6), c=st.floats(1e-3, 0.999))
def test_two_clips_are_one(log_norm: float, c: float) -> None:
    n = 10.0**log_norm
    after_one = n * min(1.0, 1 / (n + EPSILON))
    factor = clip_factor(torch.tensor(after_one, dtype=torch.float64), c)
    direct = n * min(1.0, c / (n + EPSILON))
    assert after_one * float(factor) == pytest.approx(direct, rel=1e-12)


@pytest.mark.parametrize("n", [0.5, 0.999998, 0.9999995, 1.0, 1.0000005, 1.5, 1e3])
def test_around_the_threshold_of_saelens(n: float) -> None:
    after_one = n * min(1.0, 1 / (n + EPSILON))
    factor = clip_factor(torch.tensor(after_one, dtype=torch.float64), 0.1)
    direct = min(1.0, 0.1 / (n + EPSILON)) / min(1.0, 1 / (n + EPSILON))
    assert float(factor) == pytest.approx(direct, rel=1e-9)


def test_norm_that_was_not_clipped_before_is_clipped_directly() -> None:
    assert float(clip_factor(torch.tensor(4.0), 0.5)) == pytest.approx(0.125)


def test_total_norm_is_that_of_all_entries() -> None:
    tensors = [torch.randn(5, 3), torch.randn(7), torch.randn(1, 1)]
    expected = torch.cat([each.reshape(-1) for each in tensors]).norm()
    torch.testing.assert_close(total_norm(tensors), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_is_that_of_one_direct_clip(architecture: str) -> None:
    ours = small_sae(architecture, mechanics=[sr.GradientClipping(max_norm=0.1)])
    stock = small_stock(architecture)
    start = stock.W_dec.detach().clone()
    # SGD: Adam would hide a wrong factor, its steps do not depend on the gradient's scale
    optimizers = [torch.optim.SGD(sae.parameters(), lr=0.5) for sae in (ours, stock)]
    train(ours, data(8), optimizers[0], max_norm=1.0)
    train(stock, data(8), optimizers[1], max_norm=0.1)
    assert (stock.W_dec - start).norm() > 0.05
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(
            ours.get_parameter(name), parameter, rtol=1e-5, atol=1e-6
        )


def test_small_gradient_is_left_as_it_is() -> None:
    saes = [small_sae(mechanics=[sr.GradientClipping(max_norm=0.5)]), small_stock()]
    batches = [batch * 0.01 for batch in data(3)]
    for sae in saes:
        backward(sae, batches[0])
        assert total_norm([p.grad for p in sae.parameters()]) < 0.5
        sae.zero_grad()
        train(sae, batches)
    assert_same_state(*saes)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, 1.0, 2.0, math.nan, "0.1", True])
def test_norm_outside_its_range_is_refused(max_norm: Any) -> None:
    with pytest.raises(
        sr.InputError,
        match=rf"gradient_clipping: max_norm is {max_norm!r}; expected .* below 1",
    ):
        sr.GradientClipping(max_norm=max_norm)
