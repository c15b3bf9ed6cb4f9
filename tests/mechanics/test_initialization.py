"""Where training starts: untied weights, and b_dec from the first batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.optimize import minimize

import saereg_plugin as sr
from saereg_plugin.mechanics.initialization import BDecInit
from tests.training import (
    ARCHITECTURES,
    BATCH,
    D_IN,
    D_SAE,
    assert_same_state,
    batches,
    forward,
    make_cfg,
    make_sae,
    make_stock_sae,
    make_trainer,
    row_norms,
    run_steps,
)

Vector = npt.NDArray[np.float64]


def is_uniform(values: torch.Tensor, bound: float) -> bool:
    """Whether mean, spread and range are those of U(-bound, bound), to four sigma."""
    flat = values.detach().double().flatten()
    sigma = bound / math.sqrt(3)
    n = len(flat)
    kurtosis_spread = sigma**2 * math.sqrt((9 / 5 - 1) / n)
    return bool(
        flat.abs().max() <= bound * (1 + 1e-6)
        and flat.abs().max() > 0.999 * bound
        and abs(flat.mean()) < 4 * sigma / math.sqrt(n)
        and abs(flat.var() - sigma**2) < 4 * kurtosis_spread
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_untied_weights_are_independent_kaiming_uniform(architecture: str) -> None:
    sae = make_sae(architecture, initialization="untied")
    assert is_uniform(sae.W_enc, math.sqrt(6 / D_IN))
    assert is_uniform(sae.W_dec, math.sqrt(6 / D_SAE))
    cosines = torch.cosine_similarity(sae.W_enc.T, sae.W_dec, dim=-1)
    assert cosines.abs().max() < 6 / math.sqrt(D_IN)
    assert abs(cosines.mean()) < 4 / math.sqrt(D_IN * D_SAE)


def test_tied_encoder_is_the_transpose_of_the_decoder() -> None:
    for constraint in ("none", "unit_norm"):
        sae = make_sae(decoder_constraint=constraint)
        assert torch.equal(sae.W_enc, sae.W_dec.T)


def test_encoder_is_drawn_first_in_linear_layout() -> None:
    sae = make_sae(initialization="untied", init_seed=11)
    torch.manual_seed(11)
    encoder = torch.nn.init.kaiming_uniform_(torch.empty(D_SAE, D_IN))
    decoder = torch.nn.init.kaiming_uniform_(torch.empty(D_IN, D_SAE))
    assert torch.equal(sae.W_enc, encoder.T)
    assert torch.equal(sae.W_dec, decoder.T)


def test_untied_start_is_deterministic_and_leaves_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = make_sae(initialization="untied", init_seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    again = make_sae(initialization="untied", init_seed=3, seed=99)
    other = make_sae(initialization="untied", init_seed=4)
    assert_same_state(again, first)
    assert not torch.equal(other.W_enc, first.W_enc)


def test_untied_rows_take_the_requested_norm() -> None:
    drawn = make_sae(initialization="untied", init_seed=3)
    scaled = make_sae(
        initialization="untied", init_seed=3, decoder_constraint="unit_norm"
    )
    assert (row_norms(scaled) - 1).abs().max() < 1e-6
    assert torch.equal(scaled.W_enc, drawn.W_enc)
    directions = drawn.W_dec / drawn.W_dec.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(scaled.W_dec, directions)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", ["mean", "geometric_median"])
def test_b_dec_is_that_of_the_first_batch_only(
    architecture: str, method: str, activations: torch.Tensor
) -> None:
    sae = make_sae(architecture, b_dec_init=method)
    assert torch.equal(sae.b_dec, torch.zeros(D_IN))
    first = activations[:BATCH]
    forward(sae, first)
    center = sae.b_dec.detach().clone()
    if method == "mean":
        torch.testing.assert_close(center, first.mean(dim=0))
    else:
        assert (center - first.mean(dim=0)).norm() > 0.01 * center.norm()
    forward(sae, activations[BATCH : 2 * BATCH])
    assert torch.equal(sae.b_dec, center)


def test_geometric_median_minimises_the_summed_distance(
    activations: torch.Tensor,
) -> None:
    points = activations[:BATCH, :24].double().numpy()

    def total(center: Vector) -> tuple[float, Vector]:
        offsets = center - points
        distances = np.linalg.norm(offsets, axis=1)
        return distances.sum(), (offsets / distances[:, None]).sum(axis=0)

    oracle = minimize(
        total,
        np.median(points, axis=0),
        jac=True,
        method="BFGS",
        options={"gtol": 1e-9},
    )
    sae = build_narrow("geometric_median")
    forward(sae, torch.tensor(points).float())
    found = sae.b_dec.detach().double().numpy()
    assert np.linalg.norm(found - oracle.x) < 1e-3 * np.linalg.norm(oracle.x)
    assert total(found)[0] <= oracle.fun * (1 + 1e-7)
    assert total(points.mean(axis=0))[0] > oracle.fun * (1 + 1e-4)


def build_narrow(method: BDecInit) -> sr.RegularizedTopKTrainingSAE:
    return sr.RegularizedTopKTrainingSAE(
        sr.RegularizedTopKTrainingSAEConfig(d_in=24, d_sae=32, k=4, b_dec_init=method)
    )


def test_b_dec_is_not_initialised_again_after_resuming(
    tmp_path: Path, activations: torch.Tensor
) -> None:
    sae = make_sae(b_dec_init="mean")
    run_steps(make_trainer(sae, batches(activations)), 2)
    sae.save_model(tmp_path)
    resumed = make_sae(b_dec_init="mean", seed=5)
    resumed.load_weights_from_checkpoint(tmp_path)
    forward(resumed, activations[-BATCH:] + 100)
    assert torch.equal(resumed.b_dec, sae.b_dec)
    loaded = type(sae).load_from_disk(tmp_path)
    forward(loaded, activations[-BATCH:] + 100)
    assert torch.equal(loaded.b_dec, sae.b_dec)


def test_b_dec_of_a_stock_checkpoint_is_kept(
    tmp_path: Path, activations: torch.Tensor
) -> None:
    stock = make_stock_sae()
    run_steps(make_trainer(stock, batches(activations)), 2)
    stock.save_model(tmp_path)
    sae = make_sae(b_dec_init="mean", max_norm_multiple=10.0)
    sae.load_weights_from_checkpoint(tmp_path)
    forward(sae, activations[:BATCH])
    assert torch.equal(sae.b_dec, stock.b_dec)
    assert sae.step_index == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"initialization": "tide"}, "initialization is 'tide'. Did you mean 'tied'"),
        ({"b_dec_init": "median"}, "b_dec_init is 'median'. Did you mean 'mean'"),
        ({"init_seed": -1}, "init_seed=-1; expected 0 or more, or None"),
    ],
)
def test_bad_choices_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.InputError, match=message):
        make_cfg(**fields)


UNIT_RECONSTRUCTIONS: dict[str, Any] = {"encoder_scale": "unit_reconstructions"}
STARTS: list[dict[str, Any]] = [
    {},
    {"initialization": "untied"},
    {"decoder_constraint": "unit_norm"},
    {"initialization": "untied", "decoder_init_norm": 0.3},
]


@pytest.mark.parametrize("fields", STARTS)
@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "jumprelu"])
def test_unit_inputs_start_with_reconstructions_of_unit_norm(
    architecture: str, fields: dict[str, Any]
) -> None:
    drawn = make_sae(architecture, **fields)
    sae = make_sae(architecture, **fields, **UNIT_RECONSTRUCTIONS)
    # other inputs than those that it was scaled by
    inputs = torch.randn(2048, D_IN, generator=torch.Generator().manual_seed(9))
    inputs = inputs / inputs.norm(dim=-1, keepdim=True)
    with torch.no_grad():
        norms = sae.decode(sae.encode(inputs)).norm(dim=-1)
        before = drawn.decode(drawn.encode(inputs)).norm(dim=-1)
    assert norms.mean() == pytest.approx(1, abs=0.02)
    assert abs(before.mean() - 1) > 0.05
    # the encoder alone, and as a whole
    assert torch.equal(sae.W_dec, drawn.W_dec)
    factor = (sae.W_enc / drawn.W_enc).flatten()
    torch.testing.assert_close(factor, factor[:1].expand_as(factor), rtol=1e-4, atol=0)


def test_scaled_start_is_the_plain_formula() -> None:
    """256 inputs one at a time: the k largest of each, decoded."""
    drawn, sae = make_sae(), make_sae(**UNIT_RECONSTRUCTIONS)
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    with torch.no_grad():
        for x in torch.randn(256, D_IN, generator=generator):
            hidden = (x / x.norm()) @ drawn.W_enc
            ranked = hidden * drawn.W_dec.norm(dim=-1)
            best = ranked.topk(drawn.cfg.k).indices
            total += float((hidden[best].relu() @ drawn.W_dec[best]).norm())
        expected = drawn.W_enc / (total / 256)
    torch.testing.assert_close(sae.W_enc.detach(), expected, rtol=1e-5, atol=0)


def test_scaled_start_leaves_the_global_generator() -> None:
    states: list[torch.Tensor] = []
    for fields in ({}, UNIT_RECONSTRUCTIONS):
        make_sae(**fields)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_scaled_start_is_not_made_again_on_a_checkpoint(tmp_path: Path) -> None:
    sae = make_sae(**UNIT_RECONSTRUCTIONS)
    with torch.no_grad():
        sae.W_enc.mul_(3)
    sae.save_model(tmp_path)
    again = make_sae(**UNIT_RECONSTRUCTIONS, seed=4)
    again.load_weights_from_checkpoint(tmp_path)
    assert_same_state(again, sae)
