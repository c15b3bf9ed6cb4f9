"""Without regularisers, every architecture is SAELens' own, bit for bit."""

from __future__ import annotations

import pytest
import torch

from tests.training import (
    ARCHITECTURES,
    D_SAE,
    TOPK_ARCHITECTURES,
    assert_same_state,
    batches,
    build,
    make_cfg,
    make_sae,
    make_stock_cfg,
    make_stock_sae,
    make_trainer,
    run_steps,
)

QUICK = ("standard", "topk")
"""Those whose 200 steps are in the fast tests."""


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in ARCHITECTURES
    ],
)
def test_two_hundred_steps_equal_saelens_own(
    architecture: str, activations: torch.Tensor
) -> None:
    d_in = 96
    stock = make_stock_sae(architecture, d_in=d_in)
    start = stock.W_enc.detach().clone()
    ours = make_sae(architecture, d_in=d_in)
    for sae in (stock, ours):
        make_trainer(sae, batches(activations[:, :d_in]), steps=200).fit()
    assert_same_state(ours, stock)
    assert ours.state_dict().keys() - stock.state_dict().keys() == {"completed_steps"}
    assert ours.step_index == 200
    assert not torch.equal(stock.W_enc, start)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
@pytest.mark.parametrize("normalize_activations", ["none", "expected_average_only_in"])
def test_autocast_and_normalisation_equal_saelens_own(
    architecture: str, normalize_activations: str, activations: torch.Tensor
) -> None:
    saes = [
        make(architecture, normalize_activations=normalize_activations)
        for make in (make_sae, make_stock_sae)
    ]
    for sae in saes:
        make_trainer(sae, batches(activations), steps=30, autocast=True).fit()
    assert_same_state(*saes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_init_seed_gives_the_weights_drawn_after_manual_seed(architecture: str) -> None:
    stock = build(make_stock_cfg(architecture), seed=7)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    ours = make_sae(architecture, seed=1, init_seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_state(ours, stock)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_init_seed_it_draws_as_saelens_does(architecture: str) -> None:
    stock = make_stock_sae(architecture, seed=3)
    drawn = torch.get_rng_state()
    ours = make_sae(architecture, seed=3)
    assert_same_state(ours, stock)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not torch.equal(make_sae(architecture, seed=4).W_dec, stock.W_dec)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_zero_coefficient_trains_as_none(
    architecture: str, activations: torch.Tensor
) -> None:
    stock = make_stock_sae(architecture)
    ours = make_sae(architecture, regularizers=[{"name": "weight_penalty"}])
    for sae in (stock, ours):
        run_steps(make_trainer(sae, batches(activations)), 20)
    assert_same_state(ours, stock)


def test_logged_losses_and_metrics_are_those_of_saelens(
    activations: torch.Tensor,
) -> None:
    outputs = [
        run_steps(make_trainer(sae, batches(activations)), 8)[-1]
        for sae in (make_sae("batchtopk"), make_stock_sae("batchtopk"))
    ]
    ours, stock = outputs
    assert ours.losses.keys() == stock.losses.keys()
    assert ours.metrics.keys() == stock.metrics.keys()
    assert torch.equal(ours.loss, stock.loss)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_defaults_are_those_of_saelens(architecture: str) -> None:
    ours, stock = make_cfg(architecture), make_stock_cfg(architecture)
    own = {
        "regularizers",
        "mechanics",
        "decoder_constraint",
        "initialization",
        "encoder_scale",
        "b_dec_init",
        "init_seed",
        "max_norm_multiple",
    }
    if architecture in TOPK_ARCHITECTURES:
        own |= {"sparse_step", "auxk_scaling"}
    ours_dict, stock_dict = ours.to_dict(), stock.to_dict()
    assert ours_dict.keys() - stock_dict.keys() == own
    assert ours.d_sae == D_SAE
    for key in stock_dict.keys() - {"architecture", "metadata"}:
        assert ours_dict[key] == stock_dict[key], key
