"""The L1/L2 ratio against its formula, and its gradient near zero."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import saereg_plugin as sr
from saereg_plugin.regularizers.l1_l2_ratio import l1_l2_ratio
from tests.oracles import activation_penalty_oracle as oracle
from tests.regularizers.synthetic import (
    D_SAE,
    small_sae,
    small_stock_sae,
    sparse_data,
)
from tests.regularizers.test_off_support import SELECTING
from tests.training import forward


def formula(output: Any, *, masked: bool) -> torch.Tensor:
    """``sum_i ||mu a_i||_1 / ||mu a_i||_2`` from dense tensors, by autograd."""
    fired = (output.feature_acts > 0).any(dim=0).detach()
    a = output.hidden_pre.relu() * (fired if masked else torch.ones(D_SAE))
    return (a.sum(dim=-1) / a.norm(dim=-1)).sum()


@pytest.mark.parametrize(
    ("architecture", "mask", "reduction"),
    [
        *product(SELECTING, ("batch_active", "none"), ("mean",)),
        ("topk", "batch_active", "sum"),
    ],
)
def test_value_and_gradients_are_those_of_the_formula(
    architecture: str, mask: str, reduction: str
) -> None:
    rows = sparse_data(6)
    penalty = sr.L1L2Ratio(coefficient=0.3, mask=mask, reduction=reduction)  # type: ignore[arg-type]
    ours = small_sae(architecture, regularizers=[penalty])
    stock = small_stock_sae(architecture)
    output, plain = forward(ours, rows), forward(stock, rows)
    total = formula(plain, masked=mask != "none")
    wanted = 0.3 * total / (len(rows) if reduction == "mean" else 1)
    torch.testing.assert_close(output.losses["l1_l2_ratio"], wanted)
    output.loss.backward()
    (plain.loss + wanted).backward()
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(
            ours.get_parameter(name).grad,
            parameter.grad,
            rtol=1e-4,
            atol=1e-5,
            msg=name,
        )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_plain_loops_agree_and_scale_changes_nothing(data: st.DataObject) -> None:
    n, d = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000)))
    pre = torch.randn(n, d, generator=generator, dtype=torch.float64)
    mask = data.draw(st.lists(st.booleans(), min_size=d, max_size=d))
    value = float(l1_l2_ratio(pre, torch.tensor(mask)))
    wanted = oracle.l1_l2_ratio(pre.tolist(), mask)
    assert value == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    scale = data.draw(st.sampled_from([1e-6, 0.5, 1e6]))
    scaled = float(l1_l2_ratio(scale * pre, torch.tensor(mask)))
    assert scaled == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert value <= n * math.sqrt(d) + 1e-9


@pytest.mark.parametrize("masked", [True, False])
def test_gradient_against_finite_differences(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    pre = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    pre[3] = -pre[3].abs()
    mask = torch.arange(9) % 3 > 0 if masked else None
    assert torch.autograd.gradcheck(
        lambda h: l1_l2_ratio(h, mask), (pre.requires_grad_(),)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_at_zero_have_neither_value_nor_gradient(dtype: torch.dtype) -> None:
    rows = [[0.0, 0.0, 0.0], [-1.0, -2.0, 0.0], [1e-30, 0.0, 0.0], [-1.0, 5.0, 0.0]]
    pre = torch.tensor([*rows, [3.0, -1.0, 4.0]], dtype=dtype).requires_grad_()
    mask = torch.tensor([True, False, True])
    value = l1_l2_ratio(pre, mask)
    (gradient,) = torch.autograd.grad(value, pre)
    assert value.item() == pytest.approx(7 / 5)
    assert torch.equal(gradient[:4], torch.zeros(4, 3, dtype=dtype))
    # 3-4-5: d/da_1 = (1 - 7/5 * 3/5) / 5, d/da_3 = (1 - 7/5 * 4/5) / 5
    wanted = torch.tensor([0.032, 0.0, -0.024], dtype=dtype)
    torch.testing.assert_close(gradient[4], wanted)


def test_a_single_positive_latent_costs_one_and_pulls_on_nothing() -> None:
    pre = torch.tensor([[2.5, -1.0, -3.0]]).requires_grad_()
    value = l1_l2_ratio(pre, None)
    (gradient,) = torch.autograd.grad(value, pre)
    assert value.item() == 1.0
    assert torch.equal(gradient, torch.zeros(1, 3))


def test_blocks_of_a_wide_matrix_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    pre = torch.randn(300, 4096, generator=generator).requires_grad_()
    value = l1_l2_ratio(pre, None)
    (gradient,) = torch.autograd.grad(value, pre)
    exact = pre.detach().double().requires_grad_()
    a = exact.relu()
    wanted = (a.sum(dim=-1) / a.norm(dim=-1)).sum()
    (exact_gradient,) = torch.autograd.grad(wanted, exact)
    torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-4, atol=1e-6)
