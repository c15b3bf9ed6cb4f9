"""Starting points made from SAELens' own training checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import LanguageModelSAETrainingRunner, TrainingSAE
from transformer_lens import HookedTransformer

import saereg_plugin as sr
from tests.regularizers.throwaway import NoisyFiring
from tests.training import (
    ARCHITECTURES,
    BATCH,
    batches,
    make_cfg,
    make_sae,
    make_stock_sae,
    make_trainer,
    relative_row_error,
    row_norms,
    run_steps,
    runner_cfg,
)


@pytest.fixture
def stock_checkpoint(
    request: pytest.FixtureRequest, tmp_path: Path, activations: torch.Tensor
) -> tuple[Any, Path]:
    """A stock SAE after 20 steps, and the folder SAELens' trainer saved it in."""
    sae = make_stock_sae(request.param)
    trainer = make_trainer(sae, batches(activations))
    run_steps(trainer, 20)
    trainer.save_checkpoint("stock", base_path=tmp_path)
    return sae, tmp_path / "stock"


@pytest.mark.parametrize("constraint", ["none", "unit_norm"])
@pytest.mark.parametrize(
    ("stock_checkpoint", "architecture"),
    [(name, name) for name in ARCHITECTURES],
    indirect=["stock_checkpoint"],
)
def test_starting_point_computes_what_the_checkpoint_does(
    stock_checkpoint: tuple[Any, Path],
    architecture: str,
    constraint: str,
    tmp_path: Path,
    activations: torch.Tensor,
) -> None:
    stock, folder = stock_checkpoint
    cfg = make_cfg(
        architecture,
        decoder_constraint=constraint,
        regularizers=[sr.WeightPenalty(coefficient=0.1)],
        b_dec_init="mean",
    )
    target = sr.regularize_checkpoint(folder, cfg, tmp_path / "start")
    assert target == tmp_path / "start"
    start = TrainingSAE.load_from_disk(target)
    assert type(start.cfg) is type(cfg)
    assert start.cfg.regularizers == cfg.regularizers
    x = activations[-BATCH:]
    with torch.no_grad():
        assert relative_row_error(start(x), stock(x)) < 1e-5
    assert start.step_index == 0
    if constraint == "unit_norm":
        assert (row_norms(start) - 1).abs().max() < 1e-6
    else:
        for name, parameter in stock.named_parameters():
            assert torch.equal(start.get_parameter(name), parameter), name
    run_steps(make_trainer(start, batches(activations)), 1)
    moved = (start.b_dec - stock.b_dec).abs().max()
    assert moved <= 1.01e-3, "b_dec was initialised again"


@pytest.mark.parametrize("stock_checkpoint", ["topk"], indirect=True)
@pytest.mark.parametrize("constraint", ["none", "unit_norm"])
def test_saelens_runner_trains_the_starting_point(
    stock_checkpoint: tuple[Any, Path],
    constraint: str,
    tmp_path: Path,
    model: HookedTransformer,
) -> None:
    penalty = sr.WeightPenalty(coefficient=1e-3)
    sae_cfg = make_cfg(decoder_constraint=constraint, regularizers=[penalty])
    start = sr.regularize_checkpoint(stock_checkpoint[1], sae_cfg, tmp_path / "start")
    cfg = runner_cfg(sae_cfg, from_pretrained_path=str(start), lr=1e-6)
    sr.check(cfg)
    trained: Any = LanguageModelSAETrainingRunner(cfg, override_model=model).run()
    assert isinstance(trained, sr.RegularizedTopKTrainingSAE)
    assert trained.step_index == 10
    before = TrainingSAE.load_from_disk(start)
    distance = (trained.W_enc - before.W_enc).norm() / before.W_enc.norm()
    assert 0 < distance < 0.01
    if constraint == "unit_norm":
        assert (row_norms(trained) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("stock_checkpoint", ["topk"], indirect=True)
@pytest.mark.parametrize(
    ("architecture", "fields", "message"),
    [
        (
            "topk",
            {"d_sae": 128},
            r"W_dec of shape \(256, 576\).*d_sae=128 needs \(128, 576\)",
        ),
        ("topk", {"d_in": 64}, r"d_in=64, d_sae=256 needs"),
        (
            "gated",
            {},
            r"is a 'topk' SAE; expected the base architecture of 'regularized_gated'",
        ),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(
    stock_checkpoint: tuple[Any, Path],
    architecture: str,
    fields: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    cfg = make_cfg(architecture, **fields)
    with pytest.raises(sr.InputError, match=message):
        sr.regularize_checkpoint(stock_checkpoint[1], cfg, tmp_path / "start")
    assert [path.name for path in tmp_path.iterdir()] == ["stock"]


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        sr.InputError, match=f"'{tmp_path}' has no sae_weights.safetensors"
    ):
        sr.regularize_checkpoint(tmp_path, make_cfg(), tmp_path / "start")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stock_checkpoint", ["topk"], indirect=True)
def test_a_target_with_other_files_is_refused_and_one_of_our_own_is_replaced(
    stock_checkpoint: tuple[Any, Path], tmp_path: Path
) -> None:
    target = tmp_path / "start"
    target.mkdir()
    (target / "notes").write_text("mine")
    with pytest.raises(sr.InputError, match="did not write: 'notes'"):
        sr.regularize_checkpoint(stock_checkpoint[1], make_cfg(), target)
    assert [path.name for path in target.iterdir()] == ["notes"]
    (target / "notes").unlink()
    sr.regularize_checkpoint(stock_checkpoint[1], make_cfg(), target)
    (target / "notes").write_text("mine")
    penalty = sr.WeightPenalty(coefficient=0.1)
    again = make_cfg(regularizers=[penalty])
    sr.regularize_checkpoint(stock_checkpoint[1], again, target)
    assert TrainingSAE.load_from_disk(target).cfg.regularizers == again.regularizers
    assert (target / "notes").read_text() == "mine"
    assert {path.name for path in target.iterdir()} - {".saereg.lock"} == {
        ".saereg.json",
        "cfg.json",
        "notes",
        "sae_weights.safetensors",
    }


def test_counters_and_averages_of_an_own_checkpoint_start_afresh(
    tmp_path: Path, activations: torch.Tensor
) -> None:
    fields: dict[str, Any] = {
        "regularizers": [NoisyFiring(coefficient=0.1)],
        "max_norm_multiple": 10.0,
        "b_dec_init": "mean",
    }
    sae = make_sae(**fields)
    run_steps(make_trainer(sae, batches(activations)), 5)
    sae.save_model(tmp_path / "own")
    sr.regularize_checkpoint(tmp_path / "own", make_cfg(**fields), tmp_path / "start")
    start = TrainingSAE.load_from_disk(tmp_path / "start")
    assert start.step_index == 0
    assert torch.equal(start.W_dec, sae.W_dec)
    state = start.state_dict()
    assert state["components.test_noisy_firing.rate"].abs().max() == 0
    assert state["components.norm_mask.running_median"] == 0
    assert state["components.b_dec_init.initialized"] == 1
