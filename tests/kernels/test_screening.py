"""Screened selections against dense ones and float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformer_lens import HookedTransformer

from saereg_plugin.kernels import screening
from saereg_plugin.kernels.bounds import LatentSizes
from saereg_plugin.kernels.screening import (
    Screen,
    can_screen,
    candidate_counts,
    screen_batch_top_k,
    screen_top_k,
    screening_wins,
)
from saereg_plugin.kernels.selected import Selected
from saereg_plugin.kernels.top_k import (
    PreActivations,
    select_batch_top_k,
    select_top_k,
)
from tests.kernels.screening_cases import CASES, Case, encoder, generator

Selection = tuple[Selected, torch.Tensor]


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pre_activations(case: Case, device: str = "cpu") -> PreActivations:
    sae_in, weight, bias = (
        each.to(device) for each in (case.sae_in, case.W_enc, case.b_enc)
    )
    norms = None if case.norms is None else case.norms.to(device)
    return PreActivations(sae_in, weight, bias, norms, weight.dtype)


def exact(pre: PreActivations) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix in float64, and how far the float32 products may be from each entry."""
    weight, bias = (each.double() for each in pre.scaled())
    values = pre.sae_in.double() @ weight + bias
    sizes = pre.sae_in.double().norm(dim=1)[:, None] * weight.norm(dim=0)
    rounding = (pre.sae_in.shape[1] + 2) * 2.0**-23 * (sizes + bias.abs())
    return values, rounding + 1e-37


def assert_selects_the_largest(
    pre: PreActivations, found: Selection, threshold: torch.Tensor
) -> None:
    """
    All that is above a threshold in float64 is selected, and nothing below, up to rounding.

    Args:
        pre: the pre-activations.
        found: selection and values.
        threshold: the smallest value to select, in float64, that broadcasts to the matrix.
    """
    values, rounding = exact(pre)
    selected, own = found
    chosen = torch.zeros_like(values, dtype=torch.bool)
    chosen[selected.rows, selected.latents] = True
    # a threshold is the value of some entry of the row, with its own rounding
    slack = rounding + rounding.amax(dim=1, keepdim=True)
    assert not (chosen & (values < threshold - slack)).any()
    assert not (~chosen & (values > threshold + slack)).any()
    there = (selected.rows, selected.latents)
    assert ((own.double() - values[there]).abs() <= rounding[there]).all()


def assert_is_top_k(pre: PreActivations, k: int, found: Selection) -> None:
    selected, _ = found
    counts = selected.row_offsets.diff()
    assert (counts == k).all()
    ascending = selected.latents.view(-1, k).diff(dim=1)
    assert (ascending > 0).all()
    kth = exact(pre)[0].topk(k, dim=1).values[:, -1:]
    assert_selects_the_largest(pre, found, kth)


def same_rows(a: Selection, b: Selection, k: int) -> torch.Tensor:
    """Rows in which two selections have the same latents, bool [batch]."""
    return (a[0].latents.view(-1, k) == b[0].latents.view(-1, k)).all(dim=1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_top_k_of_ten_thousand_rows(name: str, device: str) -> None:
    case = CASES[name]()
    pre = pre_activations(case, device)
    assert can_screen(pre, case.k)
    found = screen_top_k(pre, case.k)
    assert_is_top_k(pre, case.k, found)
    dense = select_top_k(pre, case.k)
    largest = [
        values.view(-1, case.k).sort(dim=1).values for _, values in (found, dense)
    ]
    torch.testing.assert_close(*largest, rtol=1e-5, atol=1e-5)
    if name not in ("all_equal", "with_ties", "zeros", "denormal"):
        # others differ where two values are equal but for rounding
        assert same_rows(found, dense, case.k).double().mean() > 0.999
    if name == "swapped":
        assert same_rows(found, dense, case.k).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_batch_top_k_of_ten_thousand_rows(name: str, device: str) -> None:
    case = CASES[name]()
    pre = pre_activations(case, device)
    count = case.k * len(case.sae_in)
    found = screen_batch_top_k(pre, count)
    values = exact(pre)[0]
    least = values.flatten().topk(count).values[-1].clamp(min=0)
    if name != "denormal":
        slack = exact(pre)[1].max()
        assert (found[1] > 0).all()
        assert len(found[1]) <= count
        if least > slack:
            assert len(found[1]) == count
    assert_selects_the_largest(pre, found, least)
    dense = select_batch_top_k(pre, count)
    assert abs(len(found[1]) - len(dense[1])) <= 1e-4 * count
    assert (found[0].rows.diff() >= 0).all()


LAYERS = (1, 15, 29)
HOOKS = tuple(f"blocks.{layer}.hook_resid_post" for layer in LAYERS)


@pytest.fixture(scope="module")
def by_hook(
    whole_model: HookedTransformer, contexts: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Ten thousand activations of an early, a middle and the last layer."""
    size = contexts.shape[1]
    # the same text in other contexts, for there are too few
    body = contexts[:, 1:].flatten()[size // 2 :]
    body = body[: len(body) // (size - 1) * (size - 1)].view(-1, size - 1)
    more = torch.cat([contexts[: len(body), :1], body], dim=1)
    tokens = torch.cat([contexts, more])[: -(-10_000 // size)]
    found: dict[str, list[torch.Tensor]] = {hook: [] for hook in HOOKS}
    with torch.no_grad():
        for part in tokens.split(8):
            _, cache = whole_model.run_with_cache(
                part, names_filter=list(HOOKS), stop_at_layer=LAYERS[-1] + 1
            )
            for hook in HOOKS:
                found[hook].append(cache[hook].flatten(0, 1))
    return {hook: torch.cat(parts)[:10_000] for hook, parts in found.items()}


@pytest.mark.parametrize("hook", HOOKS)
def test_real_activations(hook: str, by_hook: dict[str, torch.Tensor]) -> None:
    sae_in = by_hook[hook]
    assert len(sae_in) == 10_000
    weight, bias = encoder(sae_in.shape[1], 2048)
    pre = PreActivations(sae_in, weight, bias, None, torch.float32)
    found, dense = screen_top_k(pre, 32), select_top_k(pre, 32)
    assert_is_top_k(pre, 32, found)
    assert same_rows(found, dense, 32).double().mean() > 0.998
    counts = candidate_counts(pre, 32)
    assert (counts >= 32).all()
    # else nothing is gained
    assert counts.double().median() < 0.1 * pre.d_sae


def scaled(screen: Screen, factor: float) -> Screen:
    """With wrong bounds."""
    sizes = screen.sizes
    return replace(
        screen,
        sizes=LatentSizes(
            factor * sizes.norms, factor * sizes.errors, factor * sizes.offsets
        ),
    )


def test_a_wrong_bound_is_seen_in_the_selection() -> None:
    case = CASES["swapped"]()
    pre = pre_activations(case)
    right = Screen.of(pre, case.k)
    dense = select_top_k(pre, case.k)
    assert same_rows(screen_top_k(pre, case.k, right), dense, case.k).all()
    wrong = scaled(right, 0.1)
    assert not same_rows(screen_top_k(pre, case.k, wrong), dense, case.k).any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("where", ["input", "weight", "bias"])
def test_what_is_not_finite_is_selected_as_by_the_dense_step(
    bad: float, where: str
) -> None:
    case = CASES["normal"]()
    sae_in, weight, bias = case.sae_in[:40], case.W_enc, case.b_enc
    if where == "input":
        sae_in[3, 5] = bad
    elif where == "weight":
        weight[5, 17] = bad
    else:
        bias[17] = bad
    pre = PreActivations(sae_in, weight, bias, None, torch.float32)
    found, dense = screen_top_k(pre, 12), select_top_k(pre, 12)
    assert torch.equal(found[1].isnan(), dense[1].isnan())
    assert torch.equal(found[1].isinf(), dense[1].isinf())
    clean = (
        torch.arange(40) != 3
        if where == "input"
        else dense[1].isfinite().view(-1, 12).all(1)
    )
    assert same_rows(found, dense, 12)[clean].all()
    found, dense = screen_batch_top_k(pre, 480), select_batch_top_k(pre, 480)
    assert torch.equal(found[1].isnan(), dense[1].isnan())
    if bad != 1e30:
        assert torch.equal(found[0].latents, dense[0].latents)


def test_what_cannot_be_screened() -> None:
    case = CASES["normal"]()
    pre = pre_activations(case)
    assert can_screen(pre, 125)
    assert not can_screen(pre, 126)
    assert not can_screen(replace(pre, dtype=torch.bfloat16), 12)
    assert not can_screen(replace(pre, sae_in=pre.sae_in[:0]), 12)
    double = Case(case.sae_in.double(), case.W_enc.double(), case.b_enc.double())
    assert not can_screen(pre_activations(double), 12)


def test_rows_with_many_candidates_are_computed_whole() -> None:
    for name in ("all_equal", "tiny"):
        counts = candidate_counts(pre_activations(CASES[name]()), 12)
        assert (counts == 1000).all()
    outliers = candidate_counts(pre_activations(CASES["with_outliers"]()), 12)
    assert outliers.median() < 100
    pre = pre_activations(CASES["normal"]())
    pre.W_enc[0, 0] = torch.nan
    assert (candidate_counts(pre, 12) == 1000).all()


def test_bias_in_three_parts_is_exact() -> None:
    weight = torch.zeros(4, 64)
    bias = torch.randn(64, generator=generator(0)) * 100
    screen = Screen.of(
        PreActivations(torch.zeros(1, 4), weight, bias, None, torch.float32), 1
    )
    assert torch.equal(screen.coarse[:, 4:7].float().sum(1), bias)


@pytest.mark.parametrize("device", DEVICES)
def test_any_layout_is_screened_and_weights_stay(device: str) -> None:
    case = CASES["rescaled"]()
    pre = replace(pre_activations(case, device), sae_in=case.sae_in[:500].to(device))
    turned = replace(
        pre,
        sae_in=pre.sae_in.T.contiguous().T,
        W_enc=pre.W_enc.T.contiguous().T,
    )
    found, other = screen_top_k(pre, case.k), screen_top_k(turned, case.k)
    assert same_rows(found, other, case.k).all()
    found, other = (screen_batch_top_k(each, 6000) for each in (pre, turned))
    assert torch.equal(found[0].latents, other[0].latents)
    assert torch.equal(turned.W_enc, pre.W_enc)


def test_screens_are_made_where_they_were_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wins(rows: int = 2048, device: str = "cpu", k: int = 16, **more: bool) -> bool:
        return screening_wins(
            PreActivations(
                torch.empty(rows, 512, device=device),
                torch.empty(512, 8192, device=device),
                torch.empty(8192, device=device),
                None,
                torch.float32,
            ),
            k,
            **more,
        )

    monkeypatch.setattr(screening, "fast_dtype", lambda _: "bfloat16")
    assert wins()
    assert wins(rows=1, prepared=True)
    assert not wins(rows=2047)
    assert not wins(k=17)
    # no GPU was measured
    assert not wins(device="meta")
    monkeypatch.setattr(screening, "fast_dtype", lambda _: "float32")
    assert not wins()
