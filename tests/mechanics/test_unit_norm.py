"""Decoder rows of norm 1: in the gradient, after every step, after the fold, when saved."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE

import saereg_plugin as sr
from tests.training import (
    ARCHITECTURES,
    BATCH,
    TOPK_ARCHITECTURES,
    batches,
    estimate_scale,
    forward,
    make_cfg,
    make_sae,
    make_stock_sae,
    make_trainer,
    relative_row_error,
    row_norms,
    run_steps,
)

TWELVE = 12 * BATCH


def unit_sae(architecture: str, **fields: Any) -> Any:
    return make_sae(architecture, decoder_constraint="unit_norm", **fields)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradient_is_projected_onto_the_tangent(
    architecture: str, activations: torch.Tensor
) -> None:
    sae = unit_sae(architecture)
    fields: dict[str, Any] = {"decoder_init_norm": 1.0}
    if architecture in TOPK_ARCHITECTURES:
        fields["rescale_acts_by_decoder_norm"] = False
    stock = make_stock_sae(architecture, **fields)
    for each in (sae, stock):
        forward(each, activations[:BATCH]).loss.backward()
    rows, raw = stock.W_dec.detach(), stock.W_dec.grad
    along = (raw * rows).sum(dim=-1, keepdim=True)
    largest = float(raw.norm(dim=-1).max())
    assert along.abs().max() > 1e-3 * largest
    torch.testing.assert_close(
        sae.W_dec.grad, raw - along * rows, rtol=1e-4, atol=1e-6 * largest
    )
    left = (sae.W_dec.grad * sae.W_dec.detach()).sum(dim=-1)
    assert left.abs().max() < 1e-5 * largest
    for name, parameter in stock.named_parameters():
        if name != "W_dec":
            assert torch.equal(sae.get_parameter(name).grad, parameter.grad), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_have_norm_one_after_every_step(
    architecture: str, activations: torch.Tensor
) -> None:
    sae = unit_sae(architecture)
    start = sae.W_dec.detach().clone()
    trainer = make_trainer(sae, batches(activations), lr=1e-2)
    for _ in range(10):
        run_steps(trainer, 1)
        assert (row_norms(sae) - 1).abs().max() < 1e-6
    assert (sae.W_dec - start).norm() > 0.1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fold_keeps_reconstruction_and_unit_rows(
    architecture: str, activations: torch.Tensor
) -> None:
    sae = unit_sae(architecture, normalize_activations="expected_average_only_in")
    trainer = make_trainer(sae, batches(activations), steps=12)
    factor = estimate_scale(trainer)
    assert not 0.9 < factor < 1.1
    run_steps(trainer, 12)
    folded = copy.deepcopy(sae)
    folded.fold_activation_norm_scaling_factor(factor)
    x = activations[-BATCH:]
    with torch.no_grad():
        assert relative_row_error(folded(x), sae(x * factor) / factor) < 1e-5
        torch.testing.assert_close(
            folded.encode(x), sae.encode(x * factor) / factor, rtol=1e-4, atol=1e-5
        )
    assert (row_norms(folded) - 1).abs().max() < 1e-6
    assert folded.cfg.normalize_activations == "none"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("normalize_activations", ["none", "expected_average_only_in"])
def test_saved_rows_have_norm_one(
    architecture: str,
    normalize_activations: str,
    tmp_path: Path,
    activations: torch.Tensor,
) -> None:
    sae = unit_sae(architecture, normalize_activations=normalize_activations)
    make_trainer(sae, batches(activations), steps=12).fit()
    sae.save_inference_model(tmp_path)
    saved = SAE.load_from_disk(tmp_path)
    assert (row_norms(saved) - 1).abs().max() < 1e-5
    assert saved.cfg.normalize_activations == "none"


def test_without_the_constraint_the_fold_is_saelens_own(
    activations: torch.Tensor,
) -> None:
    fields: dict[str, Any] = {"normalize_activations": "expected_average_only_in"}
    saes = [make_sae("batchtopk", **fields), make_stock_sae("batchtopk", **fields)]
    for sae in saes:
        make_trainer(sae, batches(activations), steps=12).fit()
    for key, value in saes[1].state_dict().items():
        assert torch.equal(saes[0].state_dict()[key], value), key


def test_bfloat16_rows_have_norm_one_in_that_precision(
    activations: torch.Tensor,
) -> None:
    sae = unit_sae("topk", dtype="bfloat16")
    trainer = make_trainer(sae, batches(activations.bfloat16()), lr=1e-2)
    run_steps(trainer, 5)
    assert (row_norms(sae) - 1).abs().max() < 2**-8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"normalize_activations": "covariance_whitening"},
            "cannot be kept with normalize_activations='covariance_whitening'",
        ),
        (
            {"rescale_acts_by_decoder_norm": True},
            "rescale_acts_by_decoder_norm=True contradicts",
        ),
        ({"decoder_init_norm": 0.1}, "decoder_init_norm=0.1 contradicts"),
        ({"decoder_init_norm": None}, "decoder_init_norm=None contradicts"),
    ],
)
@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_contradictions_are_refused(
    architecture: str, fields: dict[str, Any], message: str
) -> None:
    make_cfg(architecture, **fields)
    with pytest.raises(sr.InputError, match=message):
        make_cfg(architecture, decoder_constraint="unit_norm", **fields)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("fields", "init_norm", "rescale"),
    [
        ({}, 0.1, True),
        ({"decoder_constraint": "unit_norm"}, 1.0, False),
        ({"initialization": "untied"}, None, True),
        (
            {"initialization": "untied", "decoder_constraint": "unit_norm"},
            1.0,
            False,
        ),
        ({"decoder_init_norm": 0.5}, 0.5, True),
    ],
)
def test_auto_resolves_as_documented(
    architecture: str, fields: dict[str, Any], init_norm: float | None, rescale: bool
) -> None:
    cfg = make_cfg(architecture, **fields)
    assert cfg.decoder_init_norm == init_norm
    if architecture in TOPK_ARCHITECTURES:
        assert cfg.rescale_acts_by_decoder_norm is rescale
    if init_norm is not None:
        norms = row_norms(make_sae(architecture, **fields))
        assert (norms / init_norm - 1).abs().max() < 1e-6


def test_explicit_rescale_false_is_kept() -> None:
    assert not make_cfg(rescale_acts_by_decoder_norm=False).rescale_acts_by_decoder_norm
    unit = make_cfg(
        decoder_constraint="unit_norm",
        rescale_acts_by_decoder_norm=False,
        decoder_init_norm=1.0,
    )
    assert not unit.rescale_acts_by_decoder_norm


def test_misspelt_constraint_is_refused() -> None:
    with pytest.raises(
        sr.InputError,
        match="decoder_constraint is 'unitnorm'. Did you mean 'unit_norm'",
    ):
        make_cfg(decoder_constraint="unitnorm")
