"""Bounds of a bfloat16 product against the error of every entry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saereg_plugin.kernels.bounds import (
    STORED,
    error_terms,
    latent_sizes,
    row_sizes,
    upper_norms,
)
from saereg_plugin.kernels.screening import Screen
from saereg_plugin.kernels.top_k import PreActivations
from tests.kernels.screening_cases import CASES, D_IN, generator


def errors_over_bounds(
    sae_in: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, factor: float = 1.0
) -> torch.Tensor:
    """Error of every stored bfloat16 value over its bound, [batch, d_sae]."""
    pre = PreActivations(sae_in, weight, bias, None, torch.float32)
    screen = Screen.of(pre, 1)
    inputs = screen.inputs(sae_in)
    d_in, d_sae = weight.shape
    stored = (inputs @ screen.coarse.T)[:, :d_sae].double()
    vectors = weight.T
    lost = upper_norms(vectors - vectors.bfloat16().float())
    sizes = latent_sizes(upper_norms(vectors), lost, bias, screen.coarse.shape[1])
    left, right = error_terms(row_sizes(sae_in, inputs[:, :d_in]), sizes)
    bound = factor * (left @ right).double() + STORED * stored.abs()
    error = (stored - (sae_in.double() @ weight.double() + bias.double())).abs()
    return error / bound


@given(
    rows=st.integers(1, 6),
    d_in=st.integers(1, 200),
    d_sae=st.integers(8, 70),
    scale=st.sampled_from([1e-30, 1e-12, 1e-3, 1.0, 1e3, 1e12]),
    spread=st.sampled_from([0.0, 1.0, 5.0]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None)
def test_the_bound_holds_for_every_entry(
    rows: int, d_in: int, d_sae: int, scale: float, spread: float, seed: int
) -> None:
    source = generator(seed)

    def draw(*shape: int) -> torch.Tensor:
        sizes = (spread * torch.randn(*shape, generator=source)).exp()
        return torch.randn(*shape, generator=source) * sizes

    ratio = errors_over_bounds(draw(rows, d_in) * scale, draw(d_in, d_sae), draw(d_sae))
    assert ratio.max() <= 1


def test_the_bound_is_not_met_by_a_tenth() -> None:
    case = CASES["swapped"]()
    ratio = errors_over_bounds(case.sae_in[:8], case.W_enc, case.b_enc, 0.1)
    assert ratio.max() > 1
    whole = errors_over_bounds(case.sae_in[:8], case.W_enc, case.b_enc)
    assert 0.5 < whole.max() <= 1


def test_bounds_hold_where_float32_products_are_made_in_bfloat16() -> None:
    case = CASES["heavy_tailed"]()
    coarse = case.sae_in[:200].bfloat16()
    weight = case.W_enc.T.contiguous()
    norms, lost = upper_norms(weight), upper_norms(weight - weight.bfloat16().float())
    rows = row_sizes(case.sae_in[:200], coarse)
    sizes = latent_sizes(norms, lost, case.b_enc, 96)
    wanted = (
        rows.lost.double()[:, None] * sizes.norms
        + rows.norms.double()[:, None] * sizes.errors
        + sizes.offsets
    )
    left, right = error_terms(rows, sizes)
    found = left.bfloat16().double() @ right.bfloat16().double()
    assert (found >= wanted).all()


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
@pytest.mark.parametrize("norms", [False, True])
def test_the_bound_of_a_group_covers_the_float32_value_of_each_member(
    scale: float, norms: bool
) -> None:
    case = CASES["heavy_tailed"]()
    decoder = torch.rand(len(case.b_enc), generator=generator(5)) if norms else None
    sae_in = case.sae_in[:300] * scale
    pre = PreActivations(sae_in, case.W_enc, case.b_enc, decoder, torch.float32)
    screen = Screen.of(pre, case.k)
    assert screen.group > 1
    inputs = screen.inputs(sae_in)
    stored = (inputs @ screen.coarse.T)[:, : pre.d_sae]
    left, right = error_terms(row_sizes(sae_in, inputs[:, :D_IN]), screen.sizes)
    bound = (left @ right).repeat(1, screen.group)[:, : pre.d_sae]
    weight, bias = pre.scaled()
    values = torch.addmm(bias, sae_in, weight)
    error = (values.double() - stored.double()).abs()
    assert (error <= bound.double() + STORED * stored.double().abs()).all()
