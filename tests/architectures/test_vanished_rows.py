"""Rows of norm 0 are saved as latents that never fire; what is not finite is not saved."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from sae_lens import SAE, TrainingSAE

import saereg_plugin as sr
from tests.training import (
    ARCHITECTURES,
    D_IN,
    make_cfg,
    make_sae,
    make_stock_sae,
    relative_row_error,
)


def inputs() -> torch.Tensor:
    return torch.randn(64, D_IN, generator=torch.Generator().manual_seed(1))


def test_a_vanished_row_is_saved_as_a_latent_that_never_fires(
    tmp_path: Path,
) -> None:
    """Such a row comes from elsewhere: our own training keeps rows from vanishing."""
    for architecture in ("topk", "batchtopk"):
        sae = make_sae(architecture)
        with torch.no_grad():
            sae.b_enc += 0.1
            without = copy.deepcopy(sae)
            without.W_enc[:, 3], without.b_enc[3] = 0, 0
            sae.W_dec[3] = 0
        for each, name in ((sae, "zero"), (without, "without")):
            each.save_inference_model(tmp_path / architecture / name)
        vanished, expected = (
            SAE.load_from_disk(tmp_path / architecture / name)
            for name in ("zero", "without")
        )
        x = inputs()
        with torch.no_grad():
            assert torch.equal(vanished.encode(x), expected.encode(x))
            assert relative_row_error(vanished(x), expected(x)) < 1e-6
        assert not vanished.W_enc[:, 3].any()
        assert float(vanished.W_dec[3].detach().norm()) == pytest.approx(1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_sae_without_finite_output_is_not_saved(
    architecture: str, tmp_path: Path
) -> None:
    sae = make_sae(architecture)
    with torch.no_grad():
        sae.W_dec[5, 2] = torch.nan
    with pytest.raises(sr.InputError, match=r"not finite: \d+ entries of .*W_dec"):
        sae.save_inference_model(tmp_path / "sae")
    assert list(tmp_path.iterdir()) == []


def test_the_test_of_an_output_draws_no_random_numbers(tmp_path: Path) -> None:
    sae = make_sae()
    before = torch.get_rng_state()
    sae.save_inference_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_vanished_row_of_a_checkpoint_gets_unit_norm(tmp_path: Path) -> None:
    stock = make_stock_sae("topk")
    with torch.no_grad():
        stock.b_enc += 0.1
        stock.W_dec[3] = 0
    stock.save_model(tmp_path / "stock")
    cfg = make_cfg(decoder_constraint="unit_norm")
    start = sr.regularize_checkpoint(tmp_path / "stock", cfg, tmp_path / "start")
    sae = TrainingSAE.load_from_disk(start)
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(len(sae.W_dec)))
    assert not sae.W_enc[:, 3].any()
    assert sae.b_enc[3] == 0
    with torch.no_grad():
        # what SAELens would compute, had it not divided 0 by 0
        stock.W_dec[3, 0] = 1e-12
        assert relative_row_error(sae(inputs()), stock(inputs())) < 1e-5
